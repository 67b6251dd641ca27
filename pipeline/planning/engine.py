"""Checks that vLLM can share a model among the GPUs of an evaluation worker."""

from pipeline.architecture.rows import row_for
from pipeline.errors import InvalidSpec
from pipeline.request.prune_spec import JobRequest
from pipeline.serving.shapes import check_shares
from pipeline.sources.pins import Pins
from pipeline.structure.sizes import sizes_of


def check_engine(request: JobRequest, pins: Pins) -> None:
    """Raises InvalidSpec where the tasks shall run in vLLM, and the GPUs of an evaluation worker cannot share
    the dense or the cut model."""
    tasks, structure = request.spec.evaluation.tasks, request.spec.structure
    if tasks is None or tasks.engine != "vllm":
        return
    share = request.resources.of("evaluation")
    field = share.field("gpus_per_worker")
    if 0 < share.gpus_per_worker < 1:
        raise InvalidSpec(
            f"got {share.gpus_per_worker:g}, and evaluation.tasks.engine vllm takes whole GPUs; ask for 1, "
            f"or use engine transformers",
            field,
        )
    row, config = row_for(pins.facts.model_type), pins.facts.config
    ranks = max(int(share.gpus_per_worker), 1)
    check_shares(sizes_of(row, config), ranks, field=field)
    if structure is not None:
        check_shares(structure.target(row, config), ranks, field=field)
