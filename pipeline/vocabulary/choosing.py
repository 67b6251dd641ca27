"""Which tokens stay: those that must, then the most frequent ones with everything that they are merged from.

Shape legend: V vocabulary.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from pipeline.artifacts.vocabulary import KeptTokens
from pipeline.errors import InvalidSpec
from pipeline.spec.vocabulary import FIELD, rounded_up
from pipeline.vocabulary.pieces import Pieces

if TYPE_CHECKING:
    from torch import Tensor


def choose_tokens(
    counts_V: "Tensor",
    models: Sequence[Pieces],
    protected: Mapping[int, str],
    *,
    size: int,
    multiple_of: int = 1,
) -> KeptTokens:
    """Keep the `protected` tokens and the most frequent ones until `size`, rounded up, is reached; of equally
    frequent ones those with the lower id. A token comes with all tokens on its way through the merges, or
    not at all. `protected`: id → why, of all models and configs.

    When no token is left that a text can yield, rows follow that none yields, those of the lowest ids first:
    models have such rows already, as their sizes were rounded up too. Raises InvalidSpec when what must stay
    does not fit, or the model has fewer rows.
    """
    derivations = _Derivations(models)
    target = rounded_up(size, multiple_of)
    kept = derivations.closures(protected)
    _check_room(kept, protected, size=size, target=target)
    if target > len(counts_V):
        raise _too_large(len(counts_V), at_least=len(kept), size=size, multiple_of=multiple_of)
    must_stay = len(kept)
    chosen = set(protected)
    counts = counts_V.tolist()
    for token in sorted(derivations.pieces, key=lambda token: (-counts[token], token)):
        if len(kept) == target:
            break
        if not derivations.reachable(token):
            continue
        needed = derivations.closure(token) - kept
        if len(kept) + len(needed) <= target:
            kept |= needed
            chosen.add(token)
    idle = islice((token for token in range(len(counts)) if token not in kept), target - len(kept))
    padding = [*idle]
    return KeptTokens(
        kept=tuple(sorted([*kept, *padding])),
        padding=len(padding),
        protected=must_stay,
        passing=len(kept - chosen),
    )


def check_size(
    models: Sequence[Pieces], protected: Mapping[int, str], *, size: int, multiple_of: int
) -> None:
    """Raise InvalidSpec when what must stay is more than the size, before anything is counted."""
    kept = _Derivations(models).closures(protected)
    _check_room(kept, protected, size=size, target=rounded_up(size, multiple_of))


class _Derivations:
    """What tokens are merged from, in all models of a tokenizer at once."""

    def __init__(self, models: Sequence[Pieces]) -> None:
        self.pieces: dict[int, str] = {}
        for model in models:
            self.pieces |= {token: piece for piece, token in model.ids.items()}
        self._models = models
        self._closures: dict[int, frozenset[int]] = {}

    def reachable(self, token: int) -> bool:
        """Whether a text can yield a token."""
        return any(parts is not None for parts in self._parts(token))

    def closure(self, token: int) -> frozenset[int]:
        """A token with all that it is merged from, whichever of the models does it."""
        if token not in self._closures:
            parts = [part for parts in self._parts(token) for part in parts or ()]
            # Parts are shorter than what they make, so this ends; and pieces are short, so it is not deep.
            self._closures[token] = frozenset({token}).union(*map(self.closure, parts))
        return self._closures[token]

    def closures(self, tokens: Iterable[int]) -> set[int]:
        """Of all of them together."""
        return {part for token in tokens for part in self.closure(token)}

    def _parts(self, token: int) -> Iterator[tuple[int, ...] | None]:
        piece = self.pieces.get(token)
        for model in self._models:
            if piece is not None and model.ids.get(piece) == token:
                parts = model.parts(piece)
                yield None if parts is None else tuple(model.ids[part] for part in parts)


def _too_large(rows: int, *, at_least: int, size: int, multiple_of: int) -> InvalidSpec:
    rounded = f", rounded up to a multiple of {multiple_of}," if size % multiple_of else ""
    nearest = rows - rows % multiple_of
    valid = str(nearest) if nearest >= at_least else f"none; lower multiple_of to {rows} or less"
    return InvalidSpec(
        f"vocabulary.size={size}{rounded} is more than the {rows} rows of the model's embedding; nearest "
        f"valid: {valid}",
        f"{FIELD}.size",
    )


def _check_room(kept: Collection[int], protected: Mapping[int, str], *, size: int, target: int) -> None:
    if len(kept) <= target:
        return
    reasons = Counter(protected.values())
    listed = ", ".join(f"{count} for {reason}" for reason, count in reasons.most_common())
    passing = len(kept) - len(protected)
    merged = f", {passing} that these are merged from" if passing else ""
    raise InvalidSpec(
        f"vocabulary.size={size} is less than the {len(kept)} tokens that must stay ({listed}{merged}); "
        f"nearest valid: {len(kept)}",
        f"{FIELD}.size",
    )
