"""What the linears of a block see while it runs.

Shape legend: T tokens, I in_features.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

from pipeline.errors import UnsupportedCheckpoint

Record = Callable[[int, Tensor], None]


@contextmanager
def recorded_inputs(block: nn.Module, groups: Sequence[Sequence[str]], record: Record) -> Iterator[None]:
    """While the block runs once, `record(group, x_TI)` is called with what each group of linears sees.

    Raises UnsupportedCheckpoint when a linear was passed by: its statistics would be made up.
    """
    seen: set[int] = set()

    def noted(group: int, x_TI: Tensor) -> None:
        seen.add(group)
        record(group, x_TI)

    hooks = [
        block.get_submodule(linears[0]).register_forward_pre_hook(_hook(group, noted))
        for group, linears in enumerate(groups)
    ]
    try:
        yield
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
