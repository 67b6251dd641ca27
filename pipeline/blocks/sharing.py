"""Shares out the work of a block, so that no worker waits long for another one.

The shares follow from the sizes alone, and who chooses a mask never changes it.
"""

import heapq
from collections.abc import Iterable, Sequence

from torch import Tensor

Size = tuple[int, int]  # out_features, in_features


def size_of(weight_OI: Tensor) -> Size:
    """Returns the size of a linear."""
    out_features, in_features = weight_OI.shape
    return out_features, in_features


def solving_cost(sizes: Iterable[Size]) -> float:
    """The cost of solving a group of linears that share a Hessian, in multiplications up to a factor:
    in_features³ for its inverse, and in_features² for each row."""
    rows, columns = 0, 0
    for out_features, in_features in sizes:
        rows, columns = rows + out_features, in_features
    return float(columns) ** 2 * (columns + rows)


def ranking_cost(size: Size) -> float:
    """The cost of choosing a linear's mask by saliencies: its number of weights."""
    return float(size[0] * size[1])


def shared_by_cost(costs: Sequence[float], workers: int) -> list[list[int]]:
    """Returns for each worker the numbers of its items, in their order. The most expensive item goes first,
    and each goes to the worker that has least so far (longest processing time first: at most 4/3 of the best
    possible, Graham 1969); ties go to the earlier item and the earlier worker."""
    shares: list[list[int]] = [[] for _ in range(workers)]
    loads = [(0.0, worker) for worker in range(workers)]
    for item in sorted(range(len(costs)), key=lambda i: -costs[i]):
        load, worker = heapq.heappop(loads)
        shares[worker].append(item)
        heapq.heappush(loads, (load + costs[item], worker))
    return [sorted(share) for share in shares]
