"""Experts and the calibration tokens that are routed to them.

An expert's statistics are those of its own tokens, unweighted: its matrices get them before the router's
weights are applied. If hardly any token reaches an expert, its statistics say little or nothing. Below
MINIMUM_TOKENS all its inputs count the same, so that every method decides by the weights alone (Wanda becomes
magnitude within its comparison group, SparseGPT leaves kept weights unchanged). The norm of a feature over T
tokens is known to a relative error of about sqrt(1/(2T)), an eighth at 32. The norm over all tokens of the
block would be no better: the router sends an expert tokens of its own kind, and the inner features of one
expert have no counterpart in the others.

Shape legend: I in_features.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch

from pipeline.architecture.row import Experts
from pipeline.tensor.statistics import LinearStatistics

MINIMUM_TOKENS = 32


def neglected(experts: Experts | None, group: Sequence[str], statistics: LinearStatistics) -> bool:
    """Tells whether a group of linears belongs to an expert that received too few tokens."""
    return experts is not None and experts.owns(group[0]) and statistics.tokens < MINIMUM_TOKENS


def indifferent(statistics: LinearStatistics, *, hessian: bool) -> LinearStatistics:
    """Returns statistics for which all inputs are the same. `hessian`: with an identity as the Hessian."""
    ones_I = torch.ones_like(statistics.input_norm_I)
    measured = statistics.input_mean_I is not None
    return replace(
        statistics,
        input_norm_I=ones_I,
        input_mean_I=torch.zeros_like(ones_I) if measured else None,
        input_variance_I=ones_I if measured else None,
        hessian_II=torch.diag(ones_I) if hessian else None,
    )


def tokens_per_expert(
    experts: Experts | None, groups: Sequence[Sequence[str]], statistics: Sequence[LinearStatistics] | None
) -> tuple[int, ...]:
    """Returns the tokens that reached each expert of a block, in their order; empty without experts or
    statistics."""
    if experts is None or statistics is None:
        return ()
    pairs = zip(groups, statistics, strict=True)
    entered = {group[0]: one.tokens for group, one in pairs if experts.owns(group[0])}
    return tuple(entered[experts.entering(expert)[0]] for expert in range(len(entered) // 2))
