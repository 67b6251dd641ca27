"""The sizes that a job asks for, checked by its driver before any stage starts."""

from pipeline.job.ledger import WorkOrder
from pipeline.planning.fits import checked_estimates


def check_sizes(order: WorkOrder) -> None:
    """Raise InvalidRequest when a stage cannot fit the declared GPUs, or the spec asks for sizes of which
    transformers makes no model."""
    structure = order.request.spec.structure
    checked_estimates(order.request, order.pins)
    if structure is None or structure.beside_vocabulary is None:
        return
    from pipeline.checkpoint.constructs import check_constructs  # loads transformers

    check_constructs(structure, order.pins.facts.config)
