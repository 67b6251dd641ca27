"""Secateur as a library.

`secateur.prune` prunes a checkpoint in this process, without Ray or a service. It takes the specs of
`POST /jobs`, runs the same stages, and gives the same bits. `secateur.perplexity` measures a model that is in
memory as jobs measure theirs. `secateur.sparse` runs pruned models faster on CPUs, and needs nothing else of
this project. So importing this package imports none of them: they come when they are named.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from secateur.evaluating import perplexity
    from secateur.pruning import Pruned, prune

__all__ = ["Pruned", "perplexity", "prune"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "perplexity":
        from secateur.evaluating import perplexity

        return perplexity
    from secateur import pruning

    return getattr(pruning, name)
