"""Refuses work that no GPU of the declared size can hold, before one is taken."""

from collections.abc import Iterable, Mapping, Sequence

from pipeline.dag.nodes import Node
from pipeline.dag.plan import plan_of
from pipeline.errors import InvalidSpec
from pipeline.job.estimate import Estimate
from pipeline.planning.engine import check_engine
from pipeline.planning.estimate import estimates
from pipeline.planning.micro_batch import settled
from pipeline.report.quantity import human_bytes
from pipeline.request.parts import Part
from pipeline.request.prune_spec import JobRequest
from pipeline.request.resources import Resources
from pipeline.sources.pins import Pins

_PARTS: Mapping[str, Part] = {
    "recover": "recovery",
    "learn_masks": "recovery",
    "evaluate_task": "evaluation",
    "behave": "evaluation",
}  # all other stages walk the blocks
_REMEDIES = {
    "recover": (
        "use more workers with resources.recovery.zero_stage 3 or offload.optimizer, a smaller "
        "micro_batch_size with gradient_checkpointing, precision bfloat16, or trains kind lora"
    ),
    "learn_masks": (
        "use more workers with resources.recovery.zero_stage 3 and gradient_checkpointing, precision "
        "bfloat16, or scope block"
    ),
    "evaluate_task": "raise resources.gpus_per_worker, or set compute_dtype to bfloat16",
    "behave": "raise resources.gpus_per_worker, or set compute_dtype to bfloat16",
}
_OF_A_WALK = "set compute_dtype to bfloat16, or use a shorter sequence_length"


def checked_estimates(request: JobRequest, pins: Pins) -> tuple[Estimate, ...]:
    """The expected costs of all stages. Raises InvalidSpec as `check_engine` and `check_fits` do."""
    check_engine(request, pins)
    request = settled(request, pins).request
    nodes = plan_of(request, pins).nodes
    found = estimates(request, pins, nodes)
    check_fits(request.resources, nodes, found)
    return found


def check_fits(resources: Resources, nodes: Sequence[Node], estimates: Iterable[Estimate]) -> None:
    """Raises InvalidSpec for the first stage that needs more on one GPU than `memory_per_gpu` declares.
    Without a declared size, nothing is refused."""
    kinds = {node.id: node.stage.kind for node in nodes}
    for estimate in estimates:
        kind, need = kinds[estimate.node], estimate.gpu_memory_bytes
        share = resources.of(_PARTS.get(kind, "pruning"))
        declared = share.gpu_memory_bytes
        if need is None or declared is None or not share.gpus_per_worker:
            continue
        if need > int(declared * min(share.gpus_per_worker, 1)):
            field, remedy = share.field("memory_per_gpu"), _REMEDIES.get(kind, _OF_A_WALK)
            of_it = f" for {share.gpus_per_worker:g} of it" if share.gpus_per_worker < 1 else ""
            raise InvalidSpec(
                f"{estimate.node} needs at least {human_bytes(need)} on each GPU, and {field} is "
                f"{share.memory_per_gpu}{of_it}: take larger GPUs, or {remedy}",
                field,
            )
