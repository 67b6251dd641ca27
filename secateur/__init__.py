"""Secateur as a library: `secateur.prune` prunes a checkpoint in this process, without Ray or a service.

It takes the specs of `POST /jobs`, runs the same stages, and gives the same bits. This package only opens the
door: `pipeline` and `workers` do the work, and are imported when it begins.
"""

from secateur.pruning import Pruned, prune

__all__ = ["Pruned", "prune"]
