"""The stage that evaluates one checkpoint on one task with lm-eval."""

import os
import tempfile
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch

from pipeline.artifacts.artifact import FileRef
from pipeline.artifacts.refs import HarnessRef, TaskEvaluationRef, TaskRef
from pipeline.dag.evaluation import task_node
from pipeline.dag.stages.results import EvaluateTask
from pipeline.errors import InvalidRequest, NumericalError
from pipeline.evaluation.task_results import TaskEvaluation
from pipeline.evaluation.task_samples import Judged, TaskSamples
from pipeline.spec.eval_tasks import CheckedTask
from pipeline.text.tokens import tokenizer_digest
from workers.context import Made, Note, Progress, StageContext, Steps
from workers.harness.asker import Asker
from workers.harness.installed import check_installed

Answer = TypeVar("Answer")
REPORT_SECONDS = 1.0


def run(stage: EvaluateTask, context: StageContext, asker: Asker) -> Steps:
    """Evaluate the checkpoint, which the asker loads whole, as lm-eval's command line does it."""
    check_installed(stage.harness_version)
    from workers.harness.asking import Answers, ask  # lm-eval takes seconds to import
    from workers.harness.confined import confined
    from workers.harness.figures import task_results, task_samples
    from workers.harness.files import write_blob

    content, checkpoint, task = context.content, context.checkpoint(), context.inputs["task"]
    checked = task.load(content, CheckedTask)
    share = context.order.request.resources.of("evaluation")
    done = (0, 0)

    def tell(finished: int, total: int) -> None:
        nonlocal done
        done = (finished, total)

    with tempfile.TemporaryDirectory(prefix="secateur-tasks-") as name:
        directory = Path(name)
        if not asker.holds(stage, checkpoint):
            yield Progress(0, 1, "loads the checkpoint")
        for file in task.files:
            if file.path.startswith(TaskRef.FOLDER):
                write_blob(content, file.blob, directory / file.path.removeprefix(TaskRef.FOLDER))

        def answered() -> Answers:
            torch.set_num_threads(share.cpus_per_worker)  # each thread has a number of its own
            loaded = asker.load(stage, checkpoint, content, share, vllm_python=context.settings.vllm_python)
            with _in_one_process(), confined(context.settings.access(), directory, checked.commits):
                return ask(stage, checked, loaded=loaded, directory=directory, tell=tell)

        try:
            answers = yield from _beside(answered, lambda: Progress(*done) if done[1] else None)
        except InvalidRequest as error:
            asked = context.order.request.spec.evaluation.tasks
            error.param = asked.field_of(checked.name) if asked is not None else None
            raise
        except OverflowError as error:
            raise NumericalError(
                f"a figure of task {checked.name!r} is too large for a number ({error}): the model finds the "
                f"right answers next to impossible; prune less"
            ) from error
    for note in answers.notes:
        yield Note(f"{checked.name}: {note}", "warning")
    samples = task_samples(
        answers.results, answers.samples, task=checked.name, checkpoint_digest=checkpoint.digest
    )
    evaluation = TaskEvaluation(
        checkpoint_digest=checkpoint.digest,
        task=checked.name,
        results=task_results(
            stage,
            checked,
            answers.results,
            samples=samples,
            task_digest=task.digest,
            tokenizer_digest=tokenizer_digest(checkpoint),
            max_length=answers.max_length,
            device=answers.device,
            engine=answers.engine,
        ),
    )
    yield from _remarks(stage, evaluation)
    written = FileRef(path=HarnessRef.RESULTS, blob=content.put_bytes(answers.written))
    yield Made(
        {
            "tasks": TaskEvaluationRef.made(content, evaluation, samples),
            "harness": HarnessRef(files=(written,)),
        },
        details={"requests": float(done[1])},
    )


def read_judged(context: StageContext, which: str) -> tuple[Judged, ...]:
    """Read the results of the `dense`, `pruned` or `recovered` checkpoint, in the order of the spec, with the
    values of each document, for later stages."""
    asked = context.order.request.spec.evaluation.tasks
    nodes = [task_node(which, task.name) for task in asked.asked] if asked is not None else []
    return tuple(
        Judged(context.load(node, TaskEvaluation), context.find(node, TaskSamples)) for node in nodes
    )


def _remarks(stage: EvaluateTask, evaluation: TaskEvaluation) -> Steps:
    """Notes about tasks that ignore num_fewshot; lm-eval lets tasks fix it at zero."""
    asked = stage.task.num_fewshot
    for result in evaluation.results:
        given = result.contract.num_fewshot
        if None not in (asked, given) and given != asked:
            yield Note(f"{result.task} takes num_fewshot {given} whatever is asked (here {asked})", "warning")


def _beside(
    work: Callable[[], Answer], progress: Callable[[], Progress | None]
) -> Generator[Progress, None, Answer]:
    """Do the work in a thread, and yield its progress every REPORT_SECONDS when it has changed."""
    answers: list[Answer] = []
    failed: list[BaseException] = []

    def target() -> None:
        try:
            answers.append(work())
        except BaseException as error:  # noqa: BLE001 - raised again below
            failed.append(error)

    thread = threading.Thread(target=target, name="lm-eval", daemon=True)
    thread.start()
    reported = None
    while thread.is_alive():
        thread.join(REPORT_SECONDS)
        now = progress()
        if now is not None and now != reported:
            yield now
            reported = now
    if failed:
        raise failed[0]
    return answers[0]


@contextmanager
def _in_one_process() -> Generator[None]:
    """Make lm-eval bootstrap in this process. Otherwise it starts one process per core of the machine, and
    not all cores belong to this stage. The figures are the same."""
    before = os.environ.get("DISABLE_MULTIPROC")
    os.environ["DISABLE_MULTIPROC"] = "1"
    try:
        yield
    finally:
        os.environ.pop("DISABLE_MULTIPROC")
        if before is not None:
            os.environ["DISABLE_MULTIPROC"] = before
