"""The stage that resolves the names of tasks and pins their data, before anything is pruned."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from pipeline.artifacts.artifact import FileRef
from pipeline.artifacts.refs import TaskRef
from pipeline.dag.stages.sources import CheckTasks
from pipeline.errors import InvalidRequest
from pipeline.evaluation.task_files import TASK_ENDINGS, TaskFiles, read_task_files
from pipeline.sources import open_source
from pipeline.spec.eval_tasks import CheckedTask, EvalTask
from pipeline.storage.content import ContentStore
from workers.context import Made, Note, Progress, StageContext, Steps
from workers.harness.installed import check_installed


def run(stage: CheckTasks, context: StageContext) -> Steps:
    """Load every task with its data once. Raises InvalidSpec whose `param` is the task's field."""
    check_installed(stage.harness_version)
    from workers.harness.confined import confined  # lm-eval takes seconds to import
    from workers.harness.tasks import all_tasks, check_names, look_at

    asked = context.order.request.spec.evaluation.tasks
    assert asked is not None
    artifacts = {}
    with tempfile.TemporaryDirectory(prefix="secateur-tasks-") as name:
        directory = Path(name)
        local = _fetch(context, directory)
        with confined(context.settings.access(), directory) as bounds:
            manager = all_tasks(stage.tasks, local, directory)
            try:
                check_names(stage.tasks, local, manager)
            except InvalidRequest as error:
                error.param = asked.field_of(error.param or "")
                raise
            for i, task in enumerate(stage.tasks):
                yield Progress(i, len(stage.tasks), task.name)
                try:
                    checked = look_at(task, manager, bounds)
                except InvalidRequest as error:
                    error.param = asked.field_of(task.name)
                    raise
                yield from _remarks(task, checked)
                needed = local.reach(task.name)[0] if local is not None else ()
                artifacts[task.name] = _stored(context.content, checked, directory, sorted(needed))
    yield Progress(len(stage.tasks), len(stage.tasks))
    yield Made(artifacts)


def _fetch(context: StageContext, directory: Path) -> TaskFiles | None:
    """Download the include directory as it was pinned, and check it again. None when the spec has none."""
    asked = context.order.request.spec.evaluation.tasks
    if asked is None or asked.include is None:
        return None
    pin = context.order.pins.of("spec.evaluation.tasks.include")
    source = open_source(pin.source, context.settings.access())
    for file in pin.files:
        with (directory / file.path).open("wb") as target:
            target.writelines(source.read(file))
    names = [file.path for file in pin.files]
    return read_task_files(
        {name: (directory / name).read_bytes() for name in names if name.endswith(TASK_ENDINGS)}, names
    )


def _stored(content: ContentStore, checked: CheckedTask, directory: Path, needed: Sequence[str]) -> TaskRef:
    """Store only the files that an evaluation needs, so that others in the directory change nothing."""
    files = [FileRef(path=TaskRef.FOLDER + name, blob=content.put_file(directory / name)) for name in needed]
    return TaskRef.made(content, checked, files=files)


def _remarks(task: EvalTask, checked: CheckedTask) -> Steps:
    """Notes for readers of the job's events."""
    largest = max(leaf.samples for leaf in checked.leaves)
    if task.limit is not None and task.limit < largest:
        yield Note(f"{task.name}: limit {task.limit} of up to {largest} questions")
