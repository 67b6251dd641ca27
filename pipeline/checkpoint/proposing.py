"""A row to begin with for a type that has none: read from transformers' model, and tried on a tiny one.

Only what resembles Llama is proposed: blocks in `model.layers` that are all alike, with linears whose roles
their names tell and whose shapes agree with them. Anything else is refused with what was found.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import JsonValue
from torch import Tensor, nn

from pipeline.architecture.axes import Dimension, Labels
from pipeline.architecture.llama_like import LAYOUTS, llama_like
from pipeline.architecture.row import Architecture
from pipeline.errors import UnsupportedModel

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BLOCKS = "model.layers"
TINY: Mapping[str, int] = {
    "vocab_size": 384,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 24,
    "max_position_embeddings": 128,
    "sliding_window": 8,
}
MOST_BLOCKS = 4
ROLES: Mapping[str, tuple[Dimension, Dimension]] = {
    "q_proj": ("query", "hidden"),
    "k_proj": ("key_value", "hidden"),
    "v_proj": ("key_value", "hidden"),
    "qkv_proj": ("qkv", "hidden"),
    "o_proj": ("hidden", "query"),
    "dense": ("hidden", "query"),
    "gate_up_proj": ("gate_up", "hidden"),
    "gate_proj": ("ffn", "hidden"),
    "up_proj": ("ffn", "hidden"),
    "down_proj": ("hidden", "ffn"),
    "fc1": ("ffn", "hidden"),
    "fc2": ("hidden", "ffn"),
    "c_fc": ("ffn", "hidden"),
    "c_proj": ("hidden", "ffn"),
}
TOGETHER = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


@dataclass(frozen=True)
class Proposal:
    """A row and the line of pipeline/architecture/llama_like.py that makes it."""

    row: Architecture
    line: str


def scaled_down(config: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """Returns a config.json of the same class and kinds of blocks with sizes of TINY. A size that the file
    does not state stays the class's."""
    blocks = config.get("num_hidden_layers")
    assert isinstance(blocks, int), "the class has read it"
    few = min(blocks, MOST_BLOCKS)
    tiny: dict[str, JsonValue] = {**config, "num_hidden_layers": few}
    for name, size in TINY.items():
        if isinstance(config.get(name), int):
            tiny[name] = size
    if config.get("num_key_value_heads") == config.get("num_attention_heads"):
        tiny["num_key_value_heads"] = TINY["num_attention_heads"]
    for name in _by_block(config, blocks):
        values = config[name]
        assert isinstance(values, list)
        tiny[name] = values[-few:]  # kinds of blocks often turn at the end of a group
    return {**tiny, **{name: 0 for name in config if name.endswith("_token_id")}}


def proposed(model: "PreTrainedModel", stated: Mapping[str, JsonValue]) -> Proposal:
    """Returns a row for a tiny model of a type without one. `stated`: its config.json. Raises
    UnsupportedModel with what does not resemble Llama."""
    config = model.config
    found = dict(model.named_modules())
    blocks = found.get(BLOCKS)
    if not isinstance(blocks, nn.ModuleList):
        raise _unlike(f"its blocks are not in {BLOCKS}")
    heads = config.num_attention_heads
    groups = getattr(config, "num_key_value_heads", None) or heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    widths: dict[Dimension, int] = {
        "hidden": config.hidden_size,
        "query": heads * head_dim,
        "key_value": groups * head_dim,
        "qkv": (heads + 2 * groups) * head_dim,
        "ffn": config.intermediate_size,
        "gate_up": 2 * config.intermediate_size,
        "head_dim": head_dim,
        "one": 1,
    }
    names = [{name for name, one in block.named_modules() if isinstance(one, nn.Linear)} for block in blocks]
    if any(one != names[0] for one in names):
        raise _unlike("its blocks have different linears")
    labels: dict[str, tuple[Dimension, ...]] = {}
    for block in blocks:
        for name, tensor in block.state_dict().items():
            module, _, kind = name.rpartition(".")
            if module in names[0] and kind != "bias":
                labels[module] = _of_linear(module, tensor, widths)
            elif module not in names[0]:
                labels[name if tensor.dim() == 0 else module] = _of_vector(name, tensor, widths)
    linears = _grouped([name for name, _ in blocks[0].named_modules() if name in names[0]])
    outer = [name for name in model.state_dict() if not name.startswith(f"{BLOCKS}.")]
    others = {*outer} - {"model.embed_tokens.weight", "model.norm.weight", "model.norm.bias"}
    if unknown := sorted(others - {"lm_head.weight", "lm_head.bias"}):
        raise _unlike(f"it has {unknown[0]} outside of its blocks")
    by_block = [name for name in _by_block(config.to_dict(), len(blocks)) if name in stated]
    return _proposal(str(config.model_type), linears, labels, ("layer_types", *by_block))


def _by_block(config: Mapping[str, JsonValue], blocks: int) -> list[str]:
    """Returns the fields that have a value for each block."""
    return [
        name
        for name, value in sorted(config.items())
        if isinstance(value, list)
        and len(value) == blocks
        and name != "architectures"
        and not name.endswith("_token_id")
    ]


def _proposal(
    model_type: str,
    linears: tuple[tuple[str, ...], ...],
    labels: dict[str, tuple[Dimension, ...]],
    by_block: tuple[str, ...],
) -> Proposal:
    by_block = tuple(dict.fromkeys(by_block))
    words = [f'"{model_type}"']
    named = next((name for name, (same, _) in LAYOUTS.items() if same == linears), None)
    known: Labels = LAYOUTS[named][1] if named is not None else {}
    own = {name: value for name, value in labels.items() if known.get(name) != value}
    words += [] if named == "GATED" else [named or repr(linears)]
    if named is None or (named != "GATED" and not own):
        words.append(f"{named}_LABELS" if named is not None else repr(labels))
    elif own:
        words.append(f"labels={{**{named}_LABELS, {repr(own)[1:-1]}}}")
    if by_block != ("layer_types",):
        words.append(f"by_block={by_block!r}")
    row = llama_like(model_type, linears, {**known, **labels}, by_block=by_block)
    return Proposal(row, f"llama_like({', '.join(words)}),")


def _of_linear(module: str, weight: Tensor, widths: Mapping[Dimension, int]) -> tuple[Dimension, Dimension]:
    labels = ROLES.get(module.rpartition(".")[2])
    if labels is None:
        raise _unlike(f"its blocks have a linear {module}, whose role its name does not tell")
    wanted = [widths[label] for label in labels]
    if [*weight.shape] != wanted:
        raise _unlike(f"{module} has shape {[*weight.shape]} in a tiny model, where Llama's has {wanted}")
    return labels


def _of_vector(name: str, tensor: Tensor, widths: Mapping[Dimension, int]) -> tuple[Dimension, ...]:
    if tensor.dim() == 0:
        return ()
    inside: tuple[Dimension, ...] = ("head_dim",) if "attn." in name else ("hidden", "one")
    label = next((one for one in inside if [*tensor.shape] == [widths[one]]), None)
    if label is None:
        raise _unlike(f"{name} has shape {[*tensor.shape]} in a tiny model, and nothing says what it counts")
    return (label,)


def _grouped(linears: list[str]) -> tuple[tuple[str, ...], ...]:
    """Puts linears of one name's family, which see the same input, together."""
    groups: list[tuple[str, ...]] = []
    for name in linears:
        parent, _, leaf = name.rpartition(".")
        family = next((one for one in TOGETHER if leaf in one), (leaf,))
        group = tuple(f"{parent}.{one}" for one in family if f"{parent}.{one}" in linears)
        if group not in groups:
            groups.append(group)
    return tuple(groups)


def _unlike(why: str) -> UnsupportedModel:
    return UnsupportedModel(
        f"no row can be proposed, because the type does not resemble Llama: {why}; "
        f"docs/extending.md says how a row is written",
        "spec.model.source",
    )
