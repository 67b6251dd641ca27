"""Learned masks as an artifact, with how they differ from those that learning began with."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from pipeline.artifacts import CheckpointRef, KeepRef, MaskAgreements
from pipeline.checkpoint.agreement import agreement
from pipeline.checkpoint.keeps import put_keep
from pipeline.patterns import NM
from workers.training.work import Work


def put_learned(
    work: Work, checkpoint: CheckpointRef, keeps: Mapping[str, Tensor], patterns: Sequence[NM]
) -> KeepRef:
    """Store the keep tensors (as load_keep gives them) of the checkpoint that was made with them."""
    content = work.settings.content()
    keep = put_keep(content, checkpoint, keeps)
    if work.prior is None:
        return keep
    beside = agreement(content, checkpoint, keep, work.prior, other="prior", patterns=patterns)
    return put_keep(content, checkpoint, keeps, agreements=MaskAgreements(agreements=(beside,)))
