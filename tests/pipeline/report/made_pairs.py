"""A report whose figures have paired data behind them."""

import math
import random

from pipeline.evaluation.task_pairs import paired_tasks
from pipeline.report.data import ReportData
from pipeline.spec.eval_tasks import EvalTasks
from pipeline.spec.evaluation import EvaluationResult
from tests.pipeline.evaluation.made_samples import judged_task
from tests.pipeline.report.made_report import DENSE, PRUNED, made_evaluation, made_report

WINDOWS = 16


def windowed(checkpoint: str, *, shift: float, device: str = "cpu") -> EvaluationResult:
    """An evaluation whose windows differ. `shift`: by how much their loss is higher."""
    rng = random.Random(11)
    losses = tuple(2.9 + rng.random() / 5 + shift * (0.5 + rng.random()) for _ in range(WINDOWS))
    loss = sum(losses) / WINDOWS
    (text,) = made_evaluation(checkpoint, loss=loss).perplexity
    result = text.model_copy(
        update={
            "perplexity": math.exp(loss),
            "window_losses": losses,
            "window_tokens": (511,) * WINDOWS,
            "contract": text.contract.model_copy(update={"device": device, "split": "test"}),
        }
    )
    return EvaluationResult(checkpoint_digest=checkpoint, perplexity=(result,))


def paired_report(*, shift: float = 0.1, lost: int = 12) -> ReportData:
    """A report in which the perplexity rose by `shift` nats or so, and `lost` of 100 answers are wrong."""
    asked = EvalTasks.model_validate({"tasks": ["sciq"]})
    data = made_report(blocks=2)
    evaluation = data.spec.evaluation.model_copy(update={"tasks": asked})
    right = [1.0] * 80 + [0.0] * 20
    before = judged_task(DENSE, "sciq", right)
    after = judged_task(PRUNED, "sciq", [0.0] * lost + right[lost:])
    return data.model_copy(
        update={
            "spec": data.spec.model_copy(update={"evaluation": evaluation}),
            "dense": windowed(DENSE, shift=0),
            "pruned": windowed(PRUNED, shift=shift),
            "dense_tasks": (before.evaluation,),
            "pruned_tasks": (after.evaluation,),
            "task_pairs": paired_tasks([before], [after]),
        }
    )
