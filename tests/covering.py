"""Pairwise testing: a few rows in which every pair of values meets, instead of thousands of combinations."""

from itertools import combinations, product

Place = tuple[int, int]  # number of the factor, number of its value


def pairwise(*sizes: int) -> list[tuple[int, ...]]:
    """Returns rows with the number of a value for each factor, such that any two values of any two factors
    are together in some row. `sizes` has the number of values of each factor.

    The search is greedy: a row begins with a missing pair, and takes for each other factor the value that
    adds the most missing pairs. The same sizes give the same rows.
    """
    missing: dict[tuple[Place, Place], None] = {
        ((i, a), (j, b)): None
        for i, j in combinations(range(len(sizes)), 2)
        for a, b in product(range(sizes[i]), range(sizes[j]))
    }
    rows = []
    while missing:
        row = dict(next(iter(missing)))
        for factor, size in enumerate(sizes):
            if factor not in row:
                gains = [_gain(missing, row, (factor, value)) for value in range(size)]
                row[factor] = gains.index(max(gains))
        places = sorted(row.items())
        for pair in combinations(places, 2):
            missing.pop(pair, None)
        rows.append(tuple(value for _, value in places))
    return rows


def _gain(missing: dict[tuple[Place, Place], None], row: dict[int, int], place: Place) -> int:
    """The number of missing pairs that a place adds to a row."""
    return sum((min(place, other), max(place, other)) in missing for other in row.items())
