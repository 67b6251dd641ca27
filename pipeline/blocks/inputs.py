"""What the linears of a block see while it runs.

Shape legend: T tokens, I in_features, K experts of a token, H hidden size.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn
from torch.nn import functional

from pipeline.architecture.row import Experts
from pipeline.checkpoint.experts import DOWN, GATE_UP
from pipeline.errors import UnsupportedCheckpoint

Record = Callable[[int, Tensor], None]


class _AllKnown(Exception):
    """Ends a forward of which nothing more is asked."""


@contextmanager
def recorded_inputs(
    block: nn.Module,
    groups: Sequence[Sequence[str]],
    record: Record,
    *,
    experts: Experts | None = None,
    only: bool = False,
) -> Iterator[None]:
    """While the block runs, `record(group, x_TI)` is called with what each group of linears sees: of an
    expert the tokens that are routed to it, which may be none. `only`: the block runs once, and its output is
    not asked for; it ends where the last input is known.

    Raises UnsupportedCheckpoint when a linear was passed by: its statistics would be made up.
    """
    seen: set[int] = set()

    def noted(group: int, x_TI: Tensor) -> None:
        seen.add(group)
        record(group, x_TI)
        if only and len(seen) == len(groups):
            raise _AllKnown

    numbers = {linears[0]: group for group, linears in enumerate(groups)}
    hooks = []
    if experts is not None and experts.entering(0)[0] in numbers:
        inside = _experts_hook(experts, numbers, noted)
        hooks.append(block.get_submodule(experts.module).register_forward_pre_hook(inside))
    for linear, group in numbers.items():
        if experts is None or not experts.owns(linear):
            hooks.append(block.get_submodule(linear).register_forward_pre_hook(_hook(group, noted)))
    try:
        yield
    except _AllKnown:
        return
    finally:
        for hook in hooks:
            hook.remove()
    for group, linears in enumerate(groups):
        if group not in seen:
            raise UnsupportedCheckpoint(
                f"{linears[0]} is not called by its block with this configuration (BLOOM's slow_but_exact "
                f"reads the weights by itself); its inputs cannot be measured: change config.json, or use a "
                f"method without calibration",
                "spec.model.source",
            )


def _hook(group: int, record: Record) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        x = args[0]
        record(group, x.reshape(-1, x.shape[-1]))

    return hook


def _experts_hook(
    experts: Experts, numbers: dict[str, int], record: Record
) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    """The fused kernels show nothing of what happens inside, so an expert's inner features are made again."""

    def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        x_TH, chosen_TK = args[:2]
        activation = module.get_submodule("act_fn")
        for expert in range(len(module.get_parameter(DOWN))):
            own_TH = x_TH[(chosen_TK == expert).any(dim=-1)]
            record(numbers[experts.entering(expert)[0]], own_TH)
            gate_up = module.get_parameter(GATE_UP)[expert]  # read late: recording may have changed it
            gate, up = functional.linear(own_TH, gate_up).chunk(2, dim=-1)
            record(numbers[experts.leaving(expert)[0]], activation(gate) * up)

    return hook
