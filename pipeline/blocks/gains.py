"""Records what the experts of a block give while it runs.

An expert's output is not recomputed from its weights: the experts' module itself is called once more, with
each pair of a token and one of its experts as a token of its own, and with a gate weight of one. So it does
not matter how a model type stores its experts, nor what they compute.

Shape legend: T tokens, K experts of a token, P pairs of a token and an expert, H hidden size, E experts.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from pipeline.architecture.row import Architecture
from pipeline.errors import UnsupportedCheckpoint
from pipeline.tensor.gains import GainShare


def router_of(row: Architecture) -> str | None:
    """Returns the module inside a block that chooses each token's experts; None if the type has none. It is
    the one whose weight has a row of the hidden size for each expert."""
    if row.experts is None:
        return None
    inside = f"{row.experts.module}."
    routers = (name for name, labels in row.inner.items() if labels == ("experts", "hidden"))
    return next((name for name in routers if not name.startswith(inside)), None)


def count_experts(block: nn.Module, row: Architecture) -> int:
    """Returns the number of experts that a block's router chooses from, 0 for a block without experts. Raises
    UnsupportedCheckpoint for experts without a router that the row names."""
    modules = dict(block.named_modules())
    if row.experts is None or row.experts.module not in modules:
        return 0
    router = router_of(row)
    if router is None or router not in modules:
        raise _unmeasurable(row, "no router with a weight of its own")
    return len(modules[router].get_parameter("weight"))


@contextmanager
def recorded_gains(
    block: nn.Module, row: Architecture, share: GainShare | None, *, sample: int
) -> Iterator[None]:
    """While the block runs on one sample, adds to `share` what its experts give; does nothing without one.

    Raises UnsupportedCheckpoint if the experts' module does not take hidden states, the chosen experts and
    their gate weights.
    """
    if share is None:
        yield
        return
    router, experts = router_of(row), row.experts
    assert router is not None, "a share is made for a block with a router"
    assert experts is not None, "a share is made for a block with experts"
    logits: list[Tensor] = []

    def routed(module: nn.Module, args: tuple[object, ...], output: object) -> None:
        first = output[0] if isinstance(output, tuple) else output
        assert isinstance(first, Tensor), "a router returns its logits first"
        logits[:] = [first]

    def entered(module: nn.Module, args: tuple[object, ...]) -> None:
        x_TH, chosen_TK, gates_TK = _routing(args, row)
        places_P1 = chosen_TK.reshape(-1, 1)
        x_PH = x_TH[:, None].expand(-1, chosen_TK.shape[1], -1).reshape(len(places_P1), -1)
        outputs_PH: Tensor = module.forward(x_PH, places_P1, gates_TK.new_ones(places_P1.shape))
        outputs_TKH = outputs_PH.view(*chosen_TK.shape, -1)
        share.record(sample, gates_TK, chosen_TK, outputs_TKH, logits[0].reshape(len(x_TH), -1))

    hooks = [
        block.get_submodule(router).register_forward_hook(routed),
        block.get_submodule(experts.module).register_forward_pre_hook(entered),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _routing(args: tuple[object, ...], row: Architecture) -> tuple[Tensor, Tensor, Tensor]:
    """Returns hidden states [T, H], the numbers of the chosen experts [T, K] and their gate weights."""
    tensors = [one for one in args if isinstance(one, Tensor)]
    if len(tensors) == 3:
        x, chosen, gates = tensors
        if chosen.shape == gates.shape and chosen.dim() == 2 and not chosen.dtype.is_floating_point:
            return x.reshape(len(chosen), -1), chosen.long(), gates
    raise _unmeasurable(row, "no module that takes each token's experts and gate weights")


def _unmeasurable(row: Architecture, what: str) -> UnsupportedCheckpoint:
    return UnsupportedCheckpoint(
        f"blocks of {row.model_type} have experts and {what}, so what the experts give cannot be measured; "
        f"leave structure.experts out, or choose by its criterion random or explicit",
        "spec.structure.experts",
    )
