"""Where blocks and linears of each model type live: one row of data each.

A new type is a new row. Modules are named relative to the causal language model (`blocks`) or to one
decoder block (`linears`).
"""

import difflib
from collections.abc import Collection
from dataclasses import dataclass

from pipeline.errors import UnsupportedModel


@dataclass(frozen=True)
class Experts:
    """The experts of a block. `module`: where the block has them; `stored`: what comes before an expert's
    number in the names of its matrices, which checkpoints store one by one (checkpoint/experts.py). `gate`,
    `up`, `down`: what comes after it."""

    module: str = "mlp.experts"
    stored: str = "mlp.experts"
    gate: str = "gate_proj"
    up: str = "up_proj"
    down: str = "down_proj"

    def entering(self, expert: int) -> tuple[str, ...]:
        """An expert's linears that see its tokens."""
        return (f"{self.stored}.{expert}.{self.gate}", f"{self.stored}.{expert}.{self.up}")

    def leaving(self, expert: int) -> tuple[str, ...]:
        """An expert's linears that see what it makes of them."""
        return (f"{self.stored}.{expert}.{self.down}",)

    def owns(self, linear: str) -> bool:
        """Whether a linear is an expert's."""
        return linear.startswith(f"{self.stored}.")

    def count(self, names: Collection[str]) -> int:
        """How many experts a block has whose tensors are `names`."""
        count = 0
        while f"{self.entering(count)[0]}.weight" in names:
            count += 1
        return count


@dataclass(frozen=True)
class Architecture:
    """One model type.

    `linears`: groups of linears of a block that see the same input whatever the config says, in the order in
    which they run; one statistic serves a group. `transposed`: weights are stored [in_features, out_features]
    (GPT-2's Conv1D). `experts`: linears beside these, in blocks that have them; routers are never pruned.
    `renamed`: where checkpoints call something otherwise than the module does, (part of the module's name,
    part of the checkpoint's). `in_tuple`: a block gives its hidden states as the first of a tuple.
    `blocks_key`, `positions_key`, `hidden_key`: names in config.json.
    """

    model_type: str
    blocks: str
    linears: tuple[tuple[str, ...], ...]
    transposed: bool = False
    experts: Experts | None = None
    renamed: tuple[str, str] | None = None
    in_tuple: bool = False
    blocks_key: str = "num_hidden_layers"
    positions_key: str = "max_position_embeddings"
    hidden_key: str = "hidden_size"

    @property
    def linear_names(self) -> tuple[str, ...]:
        """Every prunable linear of a block but those of experts."""
        return tuple(name for group in self.linears for name in group)

    def groups_in(self, names: Collection[str]) -> tuple[tuple[str, ...], ...]:
        """The groups of prunable linears of a block that stores `names`: blocks of one model may differ."""
        groups = [group for group in self.linears if f"{group[0]}.weight" in names]
        if self.experts is not None:
            for expert in range(self.experts.count(names)):
                groups += [self.experts.entering(expert), self.experts.leaving(expert)]
        return tuple(groups)


_GATED = (
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    ("self_attn.o_proj",),
    ("mlp.gate_proj", "mlp.up_proj"),
    ("mlp.down_proj",),
)

_ATTENTION = _GATED[:2]

# Attention and MLP of NeoX and Falcon share an input or not, as the config says: groups of their own are
# right in any case. (BLOOM's never do.)
_MEGATRON = (("mlp.dense_h_to_4h",), ("mlp.dense_4h_to_h",))

ROWS = {
    row.model_type: row
    for row in (
        Architecture("llama", "model.layers", _GATED),
        Architecture("mistral", "model.layers", _GATED),
        Architecture("qwen2", "model.layers", _GATED),
        Architecture("qwen3", "model.layers", _GATED),
        Architecture("gemma2", "model.layers", _GATED),
        Architecture("gemma3_text", "model.layers", _GATED),
        Architecture(
            "phi3",
            "model.layers",
            (("self_attn.qkv_proj",), ("self_attn.o_proj",), ("mlp.gate_up_proj",), ("mlp.down_proj",)),
        ),
        Architecture(
            "mixtral",
            "model.layers",
            _ATTENTION,
            experts=Experts(stored="block_sparse_moe.experts", gate="w1", up="w3", down="w2"),
            renamed=(".mlp.", ".block_sparse_moe."),
        ),
        Architecture(  # blocks without experts have an ordinary MLP
            "qwen2_moe",
            "model.layers",
            (
                *_GATED,
                ("mlp.shared_expert.gate_proj", "mlp.shared_expert.up_proj"),
                ("mlp.shared_expert.down_proj",),
            ),
            experts=Experts(),
        ),
        Architecture("qwen3_moe", "model.layers", _GATED, experts=Experts()),
        Architecture(
            "opt",
            "model.decoder.layers",
            (
                ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
                ("self_attn.out_proj",),
                ("fc1",),
                ("fc2",),
            ),
        ),
        Architecture(
            "gpt2",
            "transformer.h",
            (("attn.c_attn",), ("attn.c_proj",), ("mlp.c_fc",), ("mlp.c_proj",)),
            transposed=True,
            blocks_key="n_layer",
            positions_key="n_positions",
            hidden_key="n_embd",
        ),
        Architecture(
            "gpt_neox",
            "gpt_neox.layers",
            (("attention.query_key_value",), ("attention.dense",), *_MEGATRON),
            renamed=("lm_head.", "embed_out."),
        ),
        Architecture(
            "falcon",
            "transformer.h",
            (("self_attention.query_key_value",), ("self_attention.dense",), *_MEGATRON),
            in_tuple=True,
        ),
        Architecture(
            "bloom",
            "transformer.h",
            (("self_attention.query_key_value",), ("self_attention.dense",), *_MEGATRON),
            in_tuple=True,
            blocks_key="n_layer",
            positions_key="seq_length",  # not in every config: ALiBi has no limit of its own
        ),
    )
}


def row_for(model_type: str) -> Architecture:
    """The row of a model type. Raises UnsupportedModel with the nearest name and the whole list."""
    row = ROWS.get(model_type)
    if row is not None:
        return row
    near = difflib.get_close_matches(model_type, ROWS, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise UnsupportedModel(
        f"model type {model_type!r} has no row in pipeline/architecture.py{hint}; "
        f"known types: {', '.join(sorted(ROWS))}",
        "spec.model.source",
    )
