"""Compares the masks of a checkpoint with other masks for the same weights, linear by linear."""

from collections.abc import Iterator, Sequence

from pipeline.artifacts.mask_overlap import LinearOverlap, MaskOverlap
from pipeline.artifacts.refs import CheckpointRef, KeepRef
from pipeline.checkpoint.keeps import KeepReader
from pipeline.errors import InvalidSpec
from pipeline.masks.file import MaskFile
from pipeline.spec.patterns import NM, Pattern
from pipeline.storage.content import ContentStore
from pipeline.tensor.overlap import Overlap, overlap


def agreement(
    content: ContentStore,
    checkpoint: CheckpointRef,
    ours: KeepRef,
    theirs: KeepRef,
    *,
    other: str,
    patterns: Sequence[Pattern],
) -> MaskOverlap:
    """Compares two artifacts of keep tensors of one checkpoint. `patterns`: one per block; where it is not
    N:M, a group is a single weight."""
    mine, yours = KeepReader(content, checkpoint, ours), KeepReader(content, checkpoint, theirs)
    linears = []
    for name, held in mine.tensors.items():
        pattern = patterns[held.block]
        group = pattern.group if isinstance(pattern, NM) else 1
        found = overlap(mine.matrix(name), yours.matrix(name), group=group)
        linears.append(
            LinearOverlap(block=held.block, linear=held.linear, groups=found.groups, kept=found.kept)
        )
    return MaskOverlap(other=other, linears=tuple(linears))


def compared(ours: MaskFile, theirs: MaskFile) -> Iterator[tuple[str, int, Overlap]]:
    """Yields name, weights per group and overlap of each mask in two files; unless both have the same N:M, a
    group is a single weight. Raises InvalidSpec for files of different tensors or shapes."""
    for one, beside in ((ours, theirs), (theirs, ours)):
        for missing in [name for name in one.entries if name not in beside.entries][:1]:
            raise InvalidSpec(
                f"{beside.named} has no mask for {missing}, and {one.named} has; compare masks of one model"
            )
    for name, entry in ours.entries.items():
        beside_it = theirs.entries[name]
        if entry.shape != beside_it.shape:
            raise InvalidSpec(
                f"the mask of {name} is {list(entry.shape)} in {ours.named} and {list(beside_it.shape)} in "
                f"{theirs.named}; compare masks of one model"
            )
        group = entry.nm[1] if entry.nm is not None and entry.nm == beside_it.nm else 1
        yield name, group, overlap(ours.matrix(name), theirs.matrix(name), group=group)
