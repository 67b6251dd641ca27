"""Statistics have the same bits however the samples are shared out, and are what the definitions say."""

import itertools
from collections.abc import Sequence

import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.tensor.statistics import (
    GramTree,
    InputShare,
    LinearStatistics,
    hessian,
    leaf_size,
    merge,
    share_edges,
    tree_sum,
)

CPU = torch.device("cpu")


def samples_of(seed: int, count: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(1 + i % 5, 6, generator=generator) * 10.0 ** (i % 7) for i in range(count)]


def shared(samples: Sequence[torch.Tensor], workers: int) -> tuple[LinearStatistics, torch.Tensor]:
    """Norms and means, and the Hessian, as so many workers gather them."""
    shares, grams = [], []
    for first, end in itertools.pairwise(share_edges(len(samples), workers)):
        share = InputShare.empty(end - first, 6, ("input_norm", "input_mean"))
        tree = GramTree(6, leaf=leaf_size(len(samples)), first=first, device=CPU)
        for i, x_TI in enumerate(samples[first:end]):
            share.record(i, x_TI)
            tree.add(x_TI)
        shares.append(share)
        grams.append(tree.parts())
    return merge(shares), hessian(tree_sum(grams), samples=len(samples))


@given(seed=st.integers(0, 10_000), count=st.integers(1, 150), workers=st.integers(2, 40))
def test_any_number_of_workers_gives_the_bits_of_one(seed: int, count: int, workers: int) -> None:
    samples = samples_of(seed, count)
    alone, hessian_alone = shared(samples, 1)
    together, hessian_together = shared(samples, workers)
    assert hessian_together.equal(hessian_alone)
    assert together.input_norm_I.equal(alone.input_norm_I)
    assert alone.input_mean_I is not None
    assert alone.input_variance_I is not None
    assert together.input_mean_I is not None
    assert together.input_variance_I is not None
    assert together.input_mean_I.equal(alone.input_mean_I)
    assert together.input_variance_I.equal(alone.input_variance_I)


@given(seed=st.integers(0, 10_000), count=st.integers(1, 70))
def test_they_are_what_the_definitions_say(seed: int, count: int) -> None:
    samples = samples_of(seed, count)
    statistics, hessian_II = shared(samples, 3)
    x_TI = torch.cat(samples).double()
    expected_II = x_TI.t() @ x_TI * 2 / count
    size_II = torch.outer(expected_II.diagonal(), expected_II.diagonal()).sqrt()  # large terms may cancel
    assert ((hessian_II.double() - expected_II).abs() <= 1e-5 * size_II).all()
    torch.testing.assert_close(
        statistics.input_norm_I.double(), (x_TI.square().sum(dim=0) / count).sqrt(), rtol=1e-5, atol=0
    )
    assert statistics.input_mean_I is not None
    assert statistics.input_variance_I is not None
    scale = float(x_TI.abs().max())
    torch.testing.assert_close(
        statistics.input_mean_I.double(), x_TI.mean(dim=0), rtol=1e-5, atol=1e-6 * scale
    )
    torch.testing.assert_close(
        statistics.input_variance_I.double(), x_TI.var(dim=0, correction=0), rtol=1e-4, atol=1e-6 * scale**2
    )


@given(count=st.integers(0, 500), workers=st.integers(1, 64))
def test_shares_cover_all_samples_at_the_edges_of_leaves(count: int, workers: int) -> None:
    edges = share_edges(count, workers)
    assert (edges[0], edges[-1], len(edges)) == (0, count, workers + 1)
    assert edges == sorted(edges)
    assert all(edge % leaf_size(count) == 0 or edge == count for edge in edges)
    sizes = [end - first for first, end in itertools.pairwise(edges)]
    assert max(sizes) - min(sizes) <= 2 * leaf_size(count)


def test_a_part_per_level_is_in_memory_and_read_only_parts_are_left_alone() -> None:
    tree = GramTree(6, leaf=1, first=0, device=CPU)
    for x_TI in samples_of(0, 7):
        tree.add(x_TI)
    parts = tree.parts()
    assert sorted(parts) == [(0, 6), (1, 2), (2, 0)]
    before = {node: part_II.clone() for node, part_II in parts.items()}
    tree_sum([parts, {(0, 7): parts[0, 6]}])
    assert all(parts[node].equal(before[node]) for node in parts)
