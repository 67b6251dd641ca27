"""What became sparse when a model was opened, and what did not."""

from collections import Counter
from dataclasses import dataclass

from secateur.sparse.files import Values


@dataclass(frozen=True)
class LoadedLinear:
    """A module that multiplies by a matrix. `shape`: rows and columns, empty if it has no single matrix.
    `density`: the share of its values that are not zero, where that was looked at. `values`: their type where
    it is sparse, else None, and `why` says why it stayed dense."""

    name: str
    shape: tuple[int, ...]
    density: float | None
    values: Values | None
    why: str | None


@dataclass(frozen=True)
class SparseReport:
    """All of them. `narrow_head`: True if a head that stayed dense is read in bfloat16."""

    linears: tuple[LoadedLinear, ...]
    narrow_head: bool = False

    @property
    def sparse(self) -> tuple[LoadedLinear, ...]:
        """Those that are sparse."""
        return tuple(one for one in self.linears if one.values is not None)

    @property
    def density(self) -> float | None:
        """The share of values that are not zero in all sparse linears together."""
        weights = sum(one.shape[0] * one.shape[1] for one in self.sparse)
        kept = sum((one.density or 0) * one.shape[0] * one.shape[1] for one in self.sparse)
        return kept / weights if weights else None

    @property
    def lines(self) -> tuple[str, ...]:
        """The report in sentences: a count of what is sparse, and of each reason why something is not."""
        from secateur.sparse.operators import backend

        lines = [f"{len(self.sparse)} of {len(self.linears)} matrices are sparse"]
        if self.density is not None:
            types = ", ".join(sorted({str(one.values) for one in self.sparse}))
            lines[0] += f", with {1 - self.density:.1%} zeros and {types} values; kernels: {backend()}"
        reasons = Counter(one.why for one in self.linears if one.why is not None)
        lines += [f"{count} stay dense: {why}" for why, count in reasons.items()]
        if self.narrow_head:
            lines.append("the head is read in bfloat16, which holds its weights to the bit")
        return tuple(lines)
