"""Records the inputs of a block's linears while it runs.

Shape legend: T tokens, I in_features, K experts of a token, H hidden size.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.architecture.row import Experts
from pipeline.checkpoint.slices import BIAS, DOWN, GATE_UP, UP
from pipeline.errors import UnsupportedCheckpoint

Record = Callable[[int, Tensor], None]


class _AllKnown(Exception):
    """Ends a forward that has nothing left to record."""


@contextmanager
def recorded_inputs(
    block: nn.Module,
    groups: Sequence[Sequence[str]],
    record: Record,
    *,
    experts: Experts | None = None,
    only: bool = False,
) -> Iterator[None]:
    """While the block runs, calls `record(group, x_TI)` with the inputs of each group of linears; for an
    expert these are the tokens that are routed to it, possibly none. With `only` the block runs once, ends as
    soon as the last input is known, and gives no output.

    Raises UnsupportedCheckpoint when a linear was not called, because its statistics would be invalid.
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
    """Recomputes each expert's inner features, because fused kernels do not expose them."""

    def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        inner = _interleaved if experts.interleaved else _gate_above_up
        inner = _without_gate if experts.gate is None else inner
        inner = _gate_before_up if experts.scaled else inner
        count = len(module.get_parameter(DOWN))
        tokens_E = _unscattered(args[0], count) if experts.scaled else _by_expert(args[0], args[1], count)
        for expert, own_TH in enumerate(tokens_E):
            record(numbers[experts.entering(expert)[0]], own_TH)
            record(numbers[experts.leaving(expert)[0]], inner(module, expert, own_TH))

    return hook


# Weights are read late, because recording may have changed them.
def _without_gate(module: nn.Module, expert: int, own_TH: Tensor) -> Tensor:
    opened = functional.linear(own_TH, module.get_parameter(UP)[expert])
    activated: Tensor = module.get_submodule("act_fn")(opened)
    return activated


def _gate_above_up(module: nn.Module, expert: int, own_TH: Tensor) -> Tensor:
    gate, up = functional.linear(own_TH, module.get_parameter(GATE_UP)[expert]).chunk(2, dim=-1)
    activated: Tensor = module.get_submodule("act_fn")(gate)
    return activated * up


def _gate_before_up(module: nn.Module, expert: int, own_TH: Tensor) -> Tensor:
    gate, up = (own_TH @ module.get_parameter(GATE_UP)[expert]).chunk(2, dim=-1)
    activated: Tensor = module.get_submodule("act_fn")(gate)
    return up * activated


def _interleaved(module: nn.Module, expert: int, own_TH: Tensor) -> Tensor:
    """Returns the inner features by the module's own formula, which clamps both halves."""
    gate_up = own_TH @ module.get_parameter(GATE_UP)[expert] + module.get_parameter(GATE_UP + BIAS)[expert]
    inner: Tensor = module._apply_gate(gate_up)  # type: ignore[operator]
    return inner


def _unscattered(x_NH: Tensor, count: int) -> list[Tensor]:
    """Returns the tokens of each expert, from rows for every pair of an expert and a token, in this order,
    which are zero where the token is not the expert's. The host waits once."""
    x_ETH = x_NH.unflatten(0, (count, -1))
    own_ET = x_ETH.ne(0).any(dim=-1)
    order_ET = own_ET.int().argsort(dim=1, descending=True, stable=True)
    tokens_E: list[int] = own_ET.sum(dim=1).tolist()
    return [x_TH[order_T[:own]] for x_TH, order_T, own in zip(x_ETH, order_ET, tokens_E, strict=True)]


def _by_expert(x_TH: Tensor, chosen_TK: Tensor, count: int) -> tuple[Tensor, ...]:
    """Returns the tokens that are routed to each of `count` experts, in their order. The host waits once for
    the numbers of tokens, not for every expert."""
    flat_P = chosen_TK.reshape(-1)  # P pairs of a token and an expert
    places_P = flat_P.sort(stable=True).indices // chosen_TK.shape[1]
    experts_E1 = torch.arange(count, device=flat_P.device)[:, None]
    tokens_E: list[int] = (flat_P == experts_E1).sum(dim=1).tolist()
    return x_TH[places_P[: sum(tokens_E)]].split(tokens_E)
