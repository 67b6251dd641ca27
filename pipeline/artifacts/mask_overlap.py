"""Masks of one model beside one another: what `agreement.json` says."""

from pipeline.canonical import Frozen

PRIOR = "prior"  # what the masks are called that learning begins with


class LinearAgreement(Frozen):
    """Two masks of one linear. `groups`: share of the groups of N:M with the same mask; `kept`: share of the
    kept weights that both keep."""

    block: int
    linear: str
    groups: float
    kept: float


class MaskAgreement(Frozen):
    """The masks of a job beside others, called `other`: PRIOR, or the name that `compare_with` gives."""

    other: str
    linears: tuple[LinearAgreement, ...]


class MaskAgreements(Frozen):
    """Content of `agreement.json`."""

    agreements: tuple[MaskAgreement, ...]
