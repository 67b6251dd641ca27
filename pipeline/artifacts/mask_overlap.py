"""The overlap between masks of one model, which `agreement.json` holds."""

from pipeline.canonical import Frozen

PRIOR = "prior"  # the name of the masks that learning begins with


class LinearOverlap(Frozen):
    """Two masks of one linear. `groups`: share of the groups of N:M with the same mask; `kept`: share of the
    kept weights that both keep."""

    block: int
    linear: str
    groups: float
    kept: float


class MaskOverlap(Frozen):
    """The overlap of a job's masks with others. `other`: PRIOR, or the name that `compare_with` gives."""

    other: str
    linears: tuple[LinearOverlap, ...]


class MaskOverlaps(Frozen):
    """Content of `agreement.json`."""

    agreements: tuple[MaskOverlap, ...]
