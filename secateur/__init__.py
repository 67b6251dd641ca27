"""Secateur as a library: `secateur.prune` prunes a checkpoint in this process, without Ray or a service.

It takes the specs of `POST /jobs`, runs the same stages, and gives the same bits. This package is only the
entry: `pipeline` and `workers` do the work, and most of their modules are imported at the call.
"""

from secateur.pruning import Pruned, prune

__all__ = ["Pruned", "prune"]
