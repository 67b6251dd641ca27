"""The rule by which `micro_batch_size: auto` becomes a number.

A worker's share of a global batch is cut into equal micro-batches. The rule takes the largest with which the
account of memory (pipeline/resolve/training_memory.py) fills at most FILLED of what a worker has: its GPU, or
the machine's memory where there is none. The rest is for what the account does not count, such as the gaps of
torch's allocator. Training block by block takes one sequence at a time.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pipeline.report.quantity import human_bytes
from pipeline.request.prune_spec import JobRequest
from pipeline.request.resources import Resources
from pipeline.resolve.mask_memory import mask_memory
from pipeline.resolve.training_memory import TrainingMemory, training_memory
from pipeline.sources.pins import Pins
from pipeline.spec.patterns import NM

FILLED = 0.8

Account = Callable[[Resources], TrainingMemory]


@dataclass(frozen=True)
class Settled:
    """A request whose micro-batches have a number, and the sentence that says how it was chosen, if it
    was."""

    request: JobRequest
    note: str | None = None


def settled(request: JobRequest, pins: Pins) -> Settled:
    """Replaces `auto` by the number of the rule. Requests that say a number, or train nothing, stay as they
    are."""
    trainings = list(_trainings(request, pins))
    if request.resources.recovery.micro_batch_size != "auto" or not trainings:
        return Settled(request)
    share = request.resources.of("recovery")
    on_gpu = share.gpus_per_worker > 0
    has = (share.gpu_memory_bytes if on_gpu else None) or share.memory_bytes
    field = share.field("memory_per_gpu" if on_gpu else "memory_per_worker")

    def need(size: int) -> int:
        with_size = _with_size(request, size).resources
        accounts = [account(with_size) for _, account in trainings if account is not None]
        return max((one.device if on_gpu else one.total for one in accounts), default=0)

    whole = min(sequences for sequences, _ in trainings)
    sizes = [size for size in range(whole, 0, -1) if all(own % size == 0 for own, _ in trainings)]
    if any(account is None for _, account in trainings):
        size, why = 1, "training goes block by block, or the model's size is not known"
    else:
        size = next((size for size in sizes if need(size) <= FILLED * has), 1)
        why = f"training then needs {human_bytes(need(size))} of the {human_bytes(has)} of {field}"
    note = f"micro_batch_size auto: {size} of the {whole} sequences that a worker takes in a step; {why}"
    return Settled(_with_size(request, size), note)


def _trainings(request: JobRequest, pins: Pins) -> Iterator[tuple[int, Account | None]]:
    """Yields for each training of the job the sequences that a worker takes in a step, and the account of its
    memory, if that depends on micro-batches."""
    spec, workers, known = request.spec, request.resources.training_workers, pins.facts.parameters is not None
    recovery, learned = spec.recovery, spec.learned_method
    if recovery is not None:

        def of_recovery(resources: Resources) -> TrainingMemory:
            return training_memory(recovery, resources, pins=pins, sparse=spec.makes_zeros)

        counted = known and recovery.trains.kind != "reconstruction"
        yield recovery.global_batch_size // workers, of_recovery if counted else None
    if learned is not None and spec.prune is not None and isinstance(spec.prune.pattern, NM):
        training, pattern = learned.training, spec.prune.pattern

        def of_masks(resources: Resources) -> TrainingMemory:
            return mask_memory(training, pattern, resources, facts=pins.facts)

        counted = known and training.scope == "model"
        yield training.global_batch_size // workers, of_masks if counted else None


def _with_size(request: JobRequest, size: int) -> JobRequest:
    recovery = request.resources.recovery.model_copy(update={"micro_batch_size": size})
    resources = request.resources.model_copy(update={"recovery": recovery})
    return request.model_copy(update={"resources": resources})
