"""One checkpoint is evaluated on one task, through lm-eval's own `simple_evaluate`."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lm_eval import simple_evaluate
from lm_eval.loggers import EvaluationTracker

from pipeline.dag.stages.results import EvaluateTask
from pipeline.errors import StageError
from pipeline.spec.eval_tasks import CheckedTask
from pipeline.tensor.devices import device_name
from workers.harness.asker import Loaded
from workers.harness.figures import Samples
from workers.harness.model import Tell
from workers.harness.tasks import known_tasks

RANDOM_SEED, OTHER_SEED = 0, 1234  # lm-eval's defaults; only tasks that sample answers depend on them


@dataclass(frozen=True)
class Answers:
    """The results of a task. `results`: lm-eval's dictionary. `samples`: its records of each document, by
    question set. `written`: the bytes of its results file. `max_length`: the number of tokens that the model
    takes. `device`: the one it ran on. `engine`: what computed, with its version, where it is not
    transformers. `notes`: sentences that a user should read."""

    results: Mapping[str, Any]
    samples: Samples
    written: bytes
    max_length: int
    device: str
    engine: str | None = None
    notes: tuple[str, ...] = ()


def ask(
    stage: EvaluateTask,
    checked: CheckedTask,
    *,
    loaded: Loaded,
    directory: Path,
    tell: Tell,
) -> Answers:
    """Evaluate a task as lm-eval's command line does with the same options. `directory`: the task's own
    files."""
    lm = loaded.for_task(tell)
    named = {name: str(loaded.options[name]) for name in ("pretrained", "dtype")}
    with tempfile.TemporaryDirectory(prefix="secateur-lm-eval-") as output:
        tracker = EvaluationTracker(output_path=output)
        results = simple_evaluate(
            model=lm,
            model_args=dict(loaded.options),
            tasks=[checked.name],
            num_fewshot=stage.task.num_fewshot,
            limit=stage.task.limit,
            batch_size=stage.batch_size,
            device=str(lm.device),
            task_manager=known_tasks(checked, directory, named),
            evaluation_tracker=tracker,
            log_samples=True,
            fewshot_as_multiturn=False,
            random_seed=RANDOM_SEED,
            numpy_random_seed=OTHER_SEED,
            torch_random_seed=OTHER_SEED,
            fewshot_random_seed=stage.seed,
        )
        if results is None:
            raise StageError(f"lm-eval gave no results for task {checked.name!r}")
        samples = results.pop("samples")  # prompts and answers do not belong into the results file
        tracker.save_results_aggregated(results=results)
        written = [path.read_bytes() for path in Path(output).rglob("results_*.json")]
    if len(written) != 1:
        raise StageError(f"lm-eval wrote {len(written)} results files for task {checked.name!r}, not one")
    return Answers(
        results=results,
        samples=samples,
        written=written[0],
        max_length=lm.max_length,
        device=device_name(torch.device(lm.device)),
        engine=lm.engine,
        notes=lm.notes,
    )
