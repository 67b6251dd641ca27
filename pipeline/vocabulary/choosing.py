"""Chooses the tokens that stay: the protected ones, then the most frequent ones with all tokens that they are
merged from.

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
    """Keeps the `protected` tokens and the most frequent ones until `size`, rounded up, is reached; among
    equally frequent ones the lower id comes first. A token is kept with all tokens that its merges go
    through, or not at all. `protected` maps ids to reasons, from all models and configs.

    When no token is left that a text can yield, rows that no text yields are added, lowest ids first: models
    have such rows anyway, because their sizes were rounded up too. Raises InvalidSpec when the protected
    tokens do not fit, or the model has fewer rows.
    """
    derivations = _Derivations(models)
    target = rounded_up(size, multiple_of)
    kept = derivations.closures(protected)
    _check_capacity(kept, protected, size=size, target=target)
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
    """Raises InvalidSpec when more tokens must stay than the size allows, before anything is counted."""
    kept = _Derivations(models).closures(protected)
    _check_capacity(kept, protected, size=size, target=rounded_up(size, multiple_of))


class _Derivations:
    """The merges that tokens are derived from, in all models of a tokenizer together."""

    def __init__(self, models: Sequence[Pieces]) -> None:
        self.pieces: dict[int, str] = {}
        for model in models:
            self.pieces |= {token: piece for piece, token in model.ids.items()}
        self._models = models
        self._closures: dict[int, frozenset[int]] = {}

    def reachable(self, token: int) -> bool:
        """Tells whether a text can yield a token."""
        return any(parts is not None for parts in self._parts(token))

    def closure(self, token: int) -> frozenset[int]:
        """Returns a token with all tokens that it is merged from, in any of the models."""
        if token not in self._closures:
            parts = [part for parts in self._parts(token) for part in parts or ()]
            # Parts are shorter than their merge, so this ends; pieces are short, so the recursion is shallow.
            self._closures[token] = frozenset({token}).union(*map(self.closure, parts))
        return self._closures[token]

    def closures(self, tokens: Iterable[int]) -> set[int]:
        """Returns the union of the closures of all tokens."""
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


def _check_capacity(kept: Collection[int], protected: Mapping[int, str], *, size: int, target: int) -> None:
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
