"""Lists the parameters of a model from its config.json, under Megatron's and Hugging Face's names."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from pydantic import JsonValue

from pipeline.checkpoint.megatron.args import Args, args_of
from pipeline.checkpoint.megatron.mapping import BLOCKS, EMBEDDING, INNER, NORM, OUTPUT, Row
from pipeline.errors import IncompleteCheckpoint, UnsupportedCheckpoint

HERE = "model.layers."  # the name of the blocks in the known types


@dataclass(frozen=True)
class Parameter:
    """A row of the mapping, applied to a block. `block`: None outside of the blocks."""

    row: Row
    block: int | None = None

    @property
    def name(self) -> str:
        """Megatron's name of the parameter."""
        return self.row.name if self.block is None else f"{BLOCKS}{self.block}.{self.row.name}"

    @property
    def local_name(self) -> str:
        """Megatron's name of the parameter in models without Transformer Engine."""
        own = self.row.local or self.row.name
        return own if self.block is None else f"{BLOCKS}{self.block}.{own}"

    @property
    def parts(self) -> tuple[str, ...]:
        """Hugging Face's names of the parameters that it contains."""
        prefix = "" if self.block is None else f"{HERE}{self.block}."
        return tuple(f"{prefix}{part}" for part in self.row.parts)


def parameters_of(config: Mapping[str, JsonValue]) -> tuple[Parameter, ...]:
    """Returns every parameter that config.json requires, in the order in which they run. Raises the errors of
    args_of."""
    args = args_of(config)
    blocks = args["num_layers"]
    assert isinstance(blocks, int), "args_of returns a number"
    inner = [row for row in INNER if _has(args, row)]
    return (
        Parameter(EMBEDDING),
        *(Parameter(row, block) for block in range(blocks) for row in inner),
        Parameter(NORM),
        *([Parameter(OUTPUT)] if args["untie_embeddings_and_output_weights"] else []),
    )


def check_names(found: Collection[str], wanted: Collection[str], *, where: object) -> None:
    """Raises an error unless the checkpoint has exactly the parameters that its config.json requires."""
    missing = [name for name in wanted if name not in found]
    if missing:
        raise IncompleteCheckpoint(
            f"{where} lacks {len(missing)} parameters that config.json asks for, the first: {missing[0]}"
        )
    beyond = sorted(name for name in found if name not in wanted)
    if beyond:
        raise UnsupportedCheckpoint(
            f"{where} has {len(beyond)} parameters that its config.json does not ask for, or that "
            f"pipeline/checkpoint/megatron/mapping.py does not know, the first: {beyond[0]}"
        )


def _has(args: Args, row: Row) -> bool:
    if row.name == "self_attention.linear_qkv.bias":
        return bool(args["add_qkv_bias"])
    if row.name.endswith(".bias"):
        return bool(args["add_bias_linear"])
    return bool(args["qk_layernorm"]) or row.labels[0] != ("head_dim",)
