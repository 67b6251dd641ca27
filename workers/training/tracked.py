"""A training's steps are sent to the experiment trackers that the job asked for, as they pass by."""

import queue
from collections.abc import Iterator, Mapping

from pipeline.request.prune_spec import JobRequest
from workers.context import Note, StageContext, Step, Trained, Validated
from workers.training.trackers import Level, Status, Trackers


def tracked(steps: Iterator[Step], context: StageContext) -> Iterator[Step]:
    """Yield the same steps, with notes about the trackers between them."""
    request = context.order.request
    if request.tracking.mlflow is None and request.tracking.wandb is None:
        yield from steps
        return
    notes: queue.SimpleQueue[Note] = queue.SimpleQueue()

    def tell(text: str, level: Level) -> None:
        notes.put(Note(text, level))

    trackers = Trackers(
        request.tracking,
        job=context.order.job,
        node=context.node,
        name=request.name,
        params=run_params(request),
        tell=tell,
    )
    status: Status = "failed"
    try:
        for step in steps:
            match step:
                case Trained(_, record):
                    trackers.step(record)
                case Validated(validation):
                    trackers.validated(validation)
            yield step
            yield from _taken(notes)
        status = "finished"
    finally:
        trackers.finish(status)
    yield from _taken(notes)


def run_params(request: JobRequest) -> dict[str, str | int | float]:
    """The parameters that runs are compared by: model, pruning, recovery and its resources, with dots between
    the fields."""
    spec = request.spec.model_dump(mode="json", include={"model", "structure", "prune", "recovery"})
    resources = request.resources
    spec["resources"] = {
        **resources.recovery.model_dump(mode="json"),
        "workers": resources.training_workers,
        "gpus_per_worker": resources.of("recovery").gpus_per_worker,
    }
    return dict(_flat(spec))


def _flat(value: object, path: str = "") -> Iterator[tuple[str, str | int | float]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _flat(inner, f"{path}.{name}" if path else name)
    elif isinstance(value, bool | list):
        yield path, str(value)
    elif isinstance(value, str | int | float):
        yield path, value


def _taken(notes: "queue.SimpleQueue[Note]") -> Iterator[Note]:
    while not notes.empty():
        yield notes.get()
