"""What is known of the experts of a block, from calibration samples.

Shape legend: E experts.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the API imports specs, and has no numpy
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]


@dataclass(frozen=True)
class ExpertFacts:
    """Sums over an expert's tokens: `tokens_E`, how many there are; `norms_E`, of the L2 norms of its
    outputs; `gains_E`, of these norms times the token's gate weight. `outputs_EE`, `logits_EE`: inner
    products of each two experts' gated outputs and router logits over all tokens; None if they were not
    measured."""

    tokens_E: "Array"
    norms_E: "Array"
    gains_E: "Array"
    outputs_EE: "Array | None" = None
    logits_EE: "Array | None" = None

    @property
    def saliency(self) -> "Array":
        """The mean over an expert's tokens of gate weight times output norm (REAP, arXiv 2510.13999); 0 for
        an expert without tokens."""
        import numpy as np

        return self.gains_E / np.maximum(self.tokens_E, 1)

    @property
    def similarity(self) -> "Array":
        """How alike each two experts are: the mean of two cosines over all tokens, of their gated outputs and
        of the router's logits for them (REAM, arXiv 2604.04356)."""
        assert self.outputs_EE is not None, "merging measures products"
        assert self.logits_EE is not None, "merging measures products"
        return (_cosines(self.outputs_EE) + _cosines(self.logits_EE)) / 2


def _cosines(products_EE: "Array") -> "Array":
    """Turns inner products into cosines, 0 where one of the two is 0."""
    import numpy as np

    norms_E = np.sqrt(np.diag(products_EE))
    scale_EE = np.outer(norms_E, norms_E)
    cosines_EE = np.zeros_like(products_EE)
    np.divide(products_EE, scale_EE, out=cosines_EE, where=scale_EE > 0)
    return cosines_EE
