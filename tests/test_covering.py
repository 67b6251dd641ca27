"""Tests that any two values of any two factors are together in some row, and that the rows are few."""

from itertools import combinations, product

import pytest

from tests.covering import pairwise


@pytest.mark.parametrize("sizes", [(15, 9, 6, 5), (2, 3), (4, 4, 4, 4, 4), (1, 1, 7), (3,)])
def test_every_pair_is_there(sizes: tuple[int, ...]) -> None:
    rows = pairwise(*sizes)
    for i, j in combinations(range(len(sizes)), 2):
        assert {(row[i], row[j]) for row in rows} == set(product(range(sizes[i]), range(sizes[j])))
    assert rows == pairwise(*sizes)


def test_the_rows_are_nearly_as_few_as_can_be() -> None:
    assert len(pairwise(15, 9, 6, 5)) == 15 * 9
    assert len(pairwise(4, 4, 4, 4, 4)) <= 24
