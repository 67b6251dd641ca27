"""Few rows in which every pair of values meets, where all combinations would be thousands."""

from itertools import combinations, product

Place = tuple[int, int]  # number of the factor, number of its value


def pairwise(*sizes: int) -> list[tuple[int, ...]]:
    """Rows with the number of a value for each factor, such that any two values of any two factors are
    together in some row. `sizes`: how many values each factor has.

    Greedy: a row begins with a pair that is missing, and takes for each other factor the value that brings
    the most missing pairs. The same sizes give the same rows.
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
    """How many missing pairs a place brings to a row."""
    return sum((min(place, other), max(place, other)) in missing for other in row.items())
