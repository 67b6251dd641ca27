"""Blocks whose weights are counted, and what was measured of them."""

from collections.abc import Sequence

from hypothesis import strategies as st

from pipeline.spec.sparsity_plan import SparsityPlan, Weights

measured_lists = st.lists(st.integers(1, 400).map(lambda n: n / 37), min_size=2, max_size=40)


def weights_of(blocks: int, *, sizes: Sequence[int] = (96, 31, 17)) -> Weights:
    """Blocks with linears of odd sizes."""
    return [{f"linear{i}": size for i, size in enumerate(sizes)} for _ in range(blocks)]


def share(plan: SparsityPlan, weights: Weights) -> float:
    """Zeros of the model over its weights."""
    return sum(sum(block.values()) for block in plan.zeros) / sum(sum(block.values()) for block in weights)
