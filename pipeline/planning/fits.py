"""Refuses work that no GPU of the declared size can hold, before one is taken."""

from collections.abc import Iterable, Sequence

from pipeline.dag.nodes import Node
from pipeline.dag.plan import plan
from pipeline.errors import InvalidSpec
from pipeline.job.estimate import Estimate
from pipeline.planning.estimate import estimates
from pipeline.report.quantity import human_bytes
from pipeline.request.prune_spec import JobRequest
from pipeline.request.resources import Resources
from pipeline.sources.pins import Pins

FIELD = "resources.memory_per_gpu"
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
    """The expected costs of all stages. Raises InvalidSpec as `check_fits` does."""
    nodes = plan(request.spec, pins).nodes
    found = estimates(request, pins, nodes)
    check_fits(request.resources, nodes, found)
    return found


def check_fits(resources: Resources, nodes: Sequence[Node], estimates: Iterable[Estimate]) -> None:
    """Raises InvalidSpec for the first stage that needs more on one GPU than `memory_per_gpu` declares.
    Without a declared size, nothing is refused."""
    declared = resources.gpu_memory_bytes
    if declared is None or not resources.gpus_per_worker:
        return
    limit = int(declared * min(resources.gpus_per_worker, 1))
    kinds = {node.id: node.stage.kind for node in nodes}
    for estimate in estimates:
        need = estimate.gpu_memory_bytes
        if need is not None and need > limit:
            remedy = _REMEDIES.get(kinds[estimate.node], _OF_A_WALK)
            share = f" for {resources.gpus_per_worker:g} of it" if resources.gpus_per_worker < 1 else ""
            raise InvalidSpec(
                f"{estimate.node} needs at least {human_bytes(need)} on each GPU, and {FIELD} is "
                f"{resources.memory_per_gpu}{share}: take larger GPUs, or {remedy}",
                FIELD,
            )
