"""Keep tensors that change: exact counts, the published rules, ties by index."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pipeline.errors import NumericalError
from pipeline.tensor.regrow import cubic_sparsity, decayed_share, prune_to, regrow
from tests import oracles

SHARES = st.floats(0, 1)


@st.composite
def linears(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    """Weight, keep, gradient; few distinct values, so that ties abound."""
    rows, columns = draw(st.integers(1, 5)), draw(st.integers(1, 9))
    size = rows * columns
    small = st.lists(st.integers(-4, 4), min_size=size, max_size=size)
    keep = torch.tensor(draw(st.lists(st.booleans(), min_size=size, max_size=size))).reshape(rows, columns)
    weight = torch.tensor(draw(small), dtype=torch.float32).reshape(rows, columns) * keep
    return weight, keep, torch.tensor(draw(small), dtype=torch.float32).reshape(rows, columns)


@given(linears(), SHARES)
def test_regrow_is_the_loop(linear: tuple[Tensor, Tensor, Tensor], share: float) -> None:
    weight, keep, gradient = linear
    new = regrow(weight, keep, gradient, share)
    flat = (one.reshape(-1).numpy() for one in linear)
    expected = oracles.regrow(*flat, share)
    assert torch.equal(new, torch.from_numpy(expected).reshape(keep.shape))
    assert int(new.sum()) == int(keep.sum())
    moved = round(share * int(keep.sum()))
    assert int((new & ~keep).sum()) == min(moved, int((~keep).sum()))


@given(linears(), SHARES)
def test_prune_to_only_shrinks_to_the_exact_count(linear: tuple[Tensor, Tensor, Tensor], s: float) -> None:
    weight, keep, _ = linear
    new = prune_to(weight, keep, s)
    assert not (new & ~keep).any()
    assert int((~new).sum()) == max(int((~keep).sum()), round(keep.numel() * s))
    gone, stayed = weight[keep & ~new].abs(), weight[new].abs()
    if len(gone) and len(stayed):
        assert gone.max() <= stayed.min()


@given(st.integers(1, 500), st.floats(0.01, 1), st.floats(0, 0.9), st.floats(0, 0.99))
def test_the_cubic_never_falls_and_arrives(total: int, until: float, start: float, end: float) -> None:
    path = [cubic_sparsity(step, total=total, until=until, start=start, end=end) for step in range(total + 1)]
    assert path[0] == pytest.approx(start) or end > start
    assert all(a <= b + 1e-12 for a, b in pairwise(path))
    assert path[-1] == pytest.approx(max(start, end))


def test_schedules_at_known_places() -> None:
    assert cubic_sparsity(0, total=100, until=0.5, start=0.2, end=0.8) == pytest.approx(0.2)
    assert cubic_sparsity(25, total=100, until=0.5, start=0.2, end=0.8) == pytest.approx(0.8 - 0.6 / 8)
    assert decayed_share(0.3, 0, total=100, until=0.5) == pytest.approx(0.3)
    assert decayed_share(0.3, 25, total=100, until=0.5) == pytest.approx(0.15)
    assert decayed_share(0.3, 50, total=100, until=0.5) == decayed_share(0.3, 99, total=100, until=0.5) == 0


def test_what_is_not_finite_is_refused() -> None:
    weight, keep = torch.ones(2, 4), torch.tensor([[True, False] * 2] * 2)
    gradient = torch.ones(2, 4)
    gradient[0, 1] = torch.nan
    with pytest.raises(NumericalError, match="gradients"):
        regrow(weight, keep, gradient, 0.5)
    with pytest.raises(NumericalError, match="weights"):
        prune_to(weight / 0, keep, 0.9)
