"""Names of tasks become lm-eval's task objects, and are checked."""

from collections.abc import Collection, Mapping
from pathlib import Path

import lm_eval.tasks
from lm_eval.api.registry import METRIC_REGISTRY
from lm_eval.api.task import ConfigurableTask, Task
from lm_eval.tasks import TaskManager

from pipeline.errors import InvalidSpec, SecateurError
from pipeline.evaluation.task_files import DATA_FORMATS, TaskFiles, near
from pipeline.spec.eval_tasks import LM_EVAL_VERSION, CheckedTask, EvalTask, LeafTask
from workers.harness.confined import Confined

OWN_TASKS = Path(lm_eval.tasks.__file__).parent
OWN_INDEX = (OWN_TASKS,)  # the folders of lm-eval's own tasks that are indexed


def all_tasks(asked: Collection[EvalTask], local: TaskFiles | None, directory: Path) -> TaskManager:
    """A manager that knows all tasks that can be asked for. Building the index of lm-eval's own tasks takes
    10 seconds and more, so it is only built when the include directory does not define everything."""
    foreign = {
        name for task in asked for name in (local.reach(task.name)[1] if local is not None else {task.name})
    }
    own = OWN_INDEX if foreign else ()
    return TaskManager(include_path=[*own, directory], include_defaults=False)


def check_names(asked: Collection[EvalTask], local: TaskFiles | None, manager: TaskManager) -> None:
    """Raise InvalidSpec for an unknown name, with the nearest known one and the name as `param`, and for
    metrics of task files that lm-eval would look for on the hub."""
    for task in asked:
        if task.name not in manager.task_index:
            where = "the task files of include and " if local is not None else ""
            raise InvalidSpec(
                f"no task, group or tag {task.name!r} is among {where}lm-eval {LM_EVAL_VERSION}'s "
                f"own{near(task.name, manager.all_tasks)}",
                task.name,
            )
        for metric in sorted(local.metrics(task.name)) if local is not None else ():
            if metric not in METRIC_REGISTRY:
                known = sorted(METRIC_REGISTRY.keys())
                raise InvalidSpec(
                    f"the task files of {task.name!r} ask for metric {metric!r}, which lm-eval does not "
                    f"have{near(metric, known)}; it has {', '.join(known)}",
                    task.name,
                )


def known_tasks(checked: CheckedTask, directory: Path, metadata: Mapping[str, str]) -> TaskManager:
    """A manager that knows what one checked task needs. `metadata`: facts of the model that lm-eval passes to
    tasks."""
    own = [str(OWN_TASKS / folder) for folder in sorted(checked.folders, reverse=True)]  # the first one wins
    return TaskManager(include_path=[*own, str(directory)], include_defaults=False, metadata=dict(metadata))


def look_at(task: EvalTask, manager: TaskManager, bounds: Confined) -> CheckedTask:
    """Load a task with its data, and describe it. Raises InvalidSpec and the errors of `confined`, with the
    name of the task in front."""
    bounds.used.clear()
    bounds.refused.clear()
    failed: Exception | None = None
    try:
        loaded = manager.load([task.name])
    except Exception as error:  # noqa: BLE001 - whatever a task's own code may raise
        failed = error
    if bounds.refused:  # lm-eval may have continued without it
        raise InvalidSpec(
            f"task {task.name!r} needs {bounds.refused[0]}, and no foreign code is run here"
        ) from failed
    if isinstance(failed, SecateurError):
        raise type(failed)(f"task {task.name!r}: {failed.message}") from failed
    if failed is not None:
        raise InvalidSpec(
            f"task {task.name!r} cannot be loaded: {type(failed).__name__}: {failed}"
        ) from failed
    leaves = loaded["tasks"]
    if not leaves:
        raise InvalidSpec(f"task {task.name!r} is empty: no question set belongs to it")
    for leaf in leaves.values():
        _check_leaf(task, leaf)
    names = [*leaves, *loaded.get("groups", {}), task.name]
    paths = [manager.task_index[name].yaml_path for name in names if name in manager.task_index]
    own = [path for path in paths if path is not None and OWN_TASKS in path.parents]
    return CheckedTask(
        name=task.name,
        harness_version=LM_EVAL_VERSION,
        folders=tuple(sorted({path.relative_to(OWN_TASKS).parts[0] for path in own})),
        commits={dataset: bounds.commits[dataset] for dataset in sorted(bounds.used)},
        leaves=tuple(_leaf(name, leaf, bounds.commits) for name, leaf in sorted(leaves.items())),
    )


def _check_leaf(task: EvalTask, leaf: Task) -> None:
    if getattr(leaf, "UNSAFE_CODE", False):
        raise InvalidSpec(
            f"task {task.name!r} runs programs that the model writes, which is not done here; leave it out"
        )
    if getattr(leaf, "MULTIMODAL", False):
        raise InvalidSpec(f"task {task.name!r} shows images or sounds; only tasks of text can be asked")
    shots = task.num_fewshot if leaf.get_config("num_fewshot") != 0 else 0
    available = _examples(leaf)
    if shots and available is not None and available < shots:
        raise InvalidSpec(
            f"task {task.name!r} has {available} examples to put in front of a question, too few for "
            f"num_fewshot {shots}"
        )


def _examples(leaf: Task) -> int | None:
    """The number of few-shot examples for one question; None where the task chooses them itself."""
    if not isinstance(leaf, ConfigurableTask) or not hasattr(leaf, "sampler"):
        return None
    drawn_from_questions = leaf.fewshot_cfg.split == leaf.config.test_split  # lm-eval's own rule
    return len(leaf.sampler.df) - drawn_from_questions


def _leaf(name: str, leaf: Task, commits: Mapping[str, str]) -> LeafTask:
    dataset = leaf.DATASET_PATH or "none"
    config = leaf.get_config("dataset_name") or leaf.DATASET_NAME
    return LeafTask(
        name=name,
        version=str(leaf.VERSION),
        output_type=str(leaf.OUTPUT_TYPE),
        dataset=dataset,
        config=None if config is None else str(config),
        revision=None if dataset in DATA_FORMATS else commits.get(dataset),
        samples=len(leaf.eval_docs),
        metrics={metric: _known(better) for metric, better in leaf.higher_is_better().items()},
    )


def _known(better: object) -> bool | None:
    return better if isinstance(better, bool) else None
