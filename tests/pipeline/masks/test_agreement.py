"""Masks of one checkpoint beside others: equal groups and kept weights in common."""

from pathlib import Path

import pytest
import torch

from pipeline.masks.overlap import agreement
from pipeline.tensor.overlap import Overlap, overlap
from tests.pipeline.masks.made_masks import made_masks


def test_groups_and_kept_weights() -> None:
    ours = torch.tensor([[1, 1, 0, 0, 1, 0, 1, 0]]).bool()
    theirs = torch.tensor([[1, 1, 0, 0, 1, 0, 0, 1]]).bool()
    assert overlap(ours, theirs, group=4) == Overlap(groups=0.5, kept=0.75)
    assert overlap(ours, theirs, group=1) == Overlap(groups=0.75, kept=0.75)
    assert overlap(ours, ours, group=2) == Overlap(groups=1, kept=1)
    assert overlap(~ours & ours, ours & ~ours, group=4) == Overlap(groups=1, kept=1)
    fewer = ours.clone()
    fewer[0, 0] = False
    assert overlap(ours, fewer, group=4) == Overlap(groups=0.5, kept=pytest.approx(6 / 7))


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_two_artifacts_of_one_checkpoint(kind: str, tmp_path: Path) -> None:
    ours = made_masks(kind, tmp_path)
    theirs = made_masks(kind, tmp_path, seed=1)
    found = agreement(
        ours.content, ours.checkpoint, ours.keep, theirs.keep, other="prior", patterns=ours.patterns
    )
    assert found.other == "prior"
    assert len(found.linears) == len(ours.keeps)
    for linear, keep, beside in zip(found.linears, ours.keeps.values(), theirs.keeps.values(), strict=True):
        same = (keep.reshape(-1, 4) == beside.reshape(-1, 4)).all(dim=1)
        assert linear.groups == pytest.approx(float(same.float().mean()))
        assert linear.kept == pytest.approx(float((keep & beside).sum() / keep.sum()))
    assert found.linears[-1].block == len(ours.patterns) - 1
    same_ones = agreement(
        ours.content, ours.checkpoint, ours.keep, ours.keep, other="itself", patterns=ours.patterns
    )
    assert {(one.groups, one.kept) for one in same_ones.linears} == {(1.0, 1.0)}
