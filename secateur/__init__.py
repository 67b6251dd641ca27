"""Secateur as a library.

`secateur.prune` prunes a checkpoint in this process, without Ray or a service. It takes the specs of
`POST /jobs`, runs the same stages, and gives the same bits. `secateur.sparse` runs pruned models faster on
CPUs, and needs nothing else of this project. So importing this package imports neither: `prune` comes when it
is named.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from secateur.pruning import Pruned, prune

__all__ = ["Pruned", "prune"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from secateur import pruning

    return getattr(pruning, name)
