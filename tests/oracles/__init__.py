"""The formulas of the papers as loops, which are slow, but plain enough to be checked by eye.

Nothing here imports `pipeline`. Matrices are numpy arrays [out_features, in_features]; keep is True where a
weight stays. float32 is used only where the definition says so.
"""

from tests.oracles.choosing import (
    input_norm,
    keep_matrix_exact,
    keep_matrix_floor,
    keep_nm,
    keep_rows_exact,
    keep_rows_floor,
    keep_wanda_variant_exact,
    keep_wanda_variant_floor,
    magnitude_saliency,
    outlier_ratio,
    owl_sparsity,
    owl_zeros_exact,
    owl_zeros_floor,
    regrow,
    ria_saliency,
    wanda_saliency,
)
from tests.oracles.figures import divergence, perplexity, random_windows
from tests.oracles.solving import gptq_row, obs_row, ridge_on_support, sparsegpt_row_block, swap_row

__all__ = [
    "divergence",
    "gptq_row",
    "input_norm",
    "keep_matrix_exact",
    "keep_matrix_floor",
    "keep_nm",
    "keep_rows_exact",
    "keep_rows_floor",
    "keep_wanda_variant_exact",
    "keep_wanda_variant_floor",
    "magnitude_saliency",
    "obs_row",
    "outlier_ratio",
    "owl_sparsity",
    "owl_zeros_exact",
    "owl_zeros_floor",
    "perplexity",
    "random_windows",
    "regrow",
    "ria_saliency",
    "ridge_on_support",
    "sparsegpt_row_block",
    "swap_row",
    "wanda_saliency",
]
