"""The tables of docs/models.md, made from the rows of pipeline/architecture and the lists of what other
programs take. tests/api/test_model_types.py holds them against what the code accepts."""

from collections.abc import Collection, Iterable, Mapping

from pipeline.architecture.axes import Size
from pipeline.architecture.parts import Feature
from pipeline.architecture.row import Architecture
from pipeline.architecture.rows import ROWS
from pipeline.architecture.wrappers import READ_AS, WRAPPERS, Wrapper
from pipeline.checkpoint.megatron.known import MODEL_TYPES
from pipeline.serving.llama_cpp import ARCHITECTURES
from pipeline.serving.shapes import EXPORTED

BEGIN = "<!-- The tables below are written by `python -m api.docs`. -->\n"
END = "<!-- The tables end here. -->\n"

YES, NO, NONE = "yes", "no", ""
COLUMNS: tuple[tuple[str, Size], ...] = (
    ("hidden", "hidden_size"),
    ("heads", "num_attention_heads"),
    ("key-value heads", "num_key_value_heads"),
    ("FFN", "intermediate_size"),
    ("experts", "num_experts"),
    ("FFN of experts", "moe_intermediate_size"),
    ("FFN of the shared expert", "shared_expert_intermediate_size"),
)
FORMATS: Mapping[str, Collection[str]] = {
    "Megatron": MODEL_TYPES,
    "GGUF": ARCHITECTURES,
    "ONNX, OpenVINO": EXPORTED,
}
LACKED: Mapping[Feature, str] = {
    "recovery": "recovery training",
    "learned_masks": "learned masks",
    "reconstruction": "`reconstruction`",
    "spaced": "`drop_blocks` of kind `spaced`",
    "self_calibration": "calibration by the model itself",
    "tasks": "evaluation by tasks",
    "behaviour": "evaluation of behaviour",
    "target": "`target`",
    "quantize": "`quantize`",
    "sparse": "`publish.sparse`",
    "megatron": "conversion to Megatron's layouts",
    "float16": "`compute_dtype` float16",
}
MULTIMODAL = ("multimodal `model_type`", "its language model", "has a row", "sizes that stay besides")
SHORT = {f"{name}_proj": name for name in ("q", "k", "v", "o", "out", "qkv", "gate", "up", "down", "gate_up")}


def models_page(page: str) -> str:
    """Returns the page with the tables that follow from the rows; the text around them stays."""
    before, _, rest = page.partition(BEGIN)
    after = rest.partition(END)[2]
    return f"{before}{BEGIN}\n{tables()}\n{END}{after}"


def tables() -> str:
    """The parts: what is pruned and where it goes, what is cut and why not, and multimodal types."""
    rows = [row for _, row in sorted(ROWS.items())]
    kinds = ("`model_type`", "linears that are pruned", "learned masks", *FORMATS)
    sizes = ("`model_type`", *(name for name, _ in COLUMNS))
    return "\n".join(
        (
            _table(kinds, (_kind(row) for row in rows)),
            _table(
                sizes, ((f"`{row.model_type}`", *(cut(row, size) for _, size in COLUMNS)) for row in rows)
            ),
            "".join((*(reason for row in rows for reason in reasons(row)), *lacking(rows))),
            _table(MULTIMODAL, (_wrapper(one) for _, one in sorted(WRAPPERS.items()))),
        )
    )


def linears(row: Architecture) -> str:
    """The linears of a block; those with the same input lie between two semicolons."""
    groups = [_group(group) for group in row.linears]
    if row.decoder is not None:  # its stacks have the same linears in other places
        groups = [*dict.fromkeys(groups)]
    if row.experts is not None:
        entering, leaving = row.experts.entering(0), row.experts.leaving(0)
        groups += [f"{_group(entering)} of every expert", f"{_group(leaving)} of every expert"]
    return "; ".join(groups)


def cut(row: Architecture, size: Size) -> str:
    """What the table says of cutting a size: `yes`, `no`, nothing if the type has no such size, or on which
    condition."""
    fixed = [one for one in row.fixed if size in one.sizes]
    if any(one.where is None for one in fixed):
        return NO
    if size == "intermediate_size" and size not in row.sizes and row.experts is None:
        return "with hidden"
    if size == "shared_expert_intermediate_size" and row.shared_experts is not None:
        return "with that of experts"
    if size not in row.sizes:
        return NONE
    if size == "num_key_value_heads" and row.grouped is not None:
        return f"with `{row.grouped}`"
    together = {"hidden_size": "with heads", "num_attention_heads": "with hidden"}
    said = together.get(size, YES) if row.head_dim == "tied" else YES
    return f"{said}, not with `{fixed[0].where}`" if fixed else said


def reasons(row: Architecture) -> Iterable[str]:
    """A line for all sizes that a type leaves alone for one reason."""
    for one in row.fixed:
        flag = f" with `{one.where}`" if one.where is not None else ""
        sizes = ", ".join(f"`{size}`" for size in one.sizes)
        yield f"- `{row.model_type}`{flag} keeps {sizes}: {one.why}.\n"


def lacking(rows: Iterable[Architecture]) -> Iterable[str]:
    """A line for everything that is not offered for some types, for one reason."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        for feature, why in row.lacks.items():
            found.setdefault((LACKED[feature], why), []).append(f"`{row.model_type}`")
    for (what, why), types in found.items():
        yield f"- {', '.join(types)}: no {what}: {why}.\n"


def _kind(row: Architecture) -> tuple[str, ...]:
    masks = YES if row.experts is None and "learned_masks" not in row.lacks else NO
    taken = (YES if row.model_type in types else NO for types in FORMATS.values())
    return (f"`{row.model_type}`", linears(row), masks, *taken)


def _wrapper(wrapper: Wrapper) -> tuple[str, ...]:
    read_as = READ_AS[wrapper.text].model_type if wrapper.text in READ_AS else wrapper.text
    also = f", read as `{read_as}`" if read_as != wrapper.text else ""
    kept = ", ".join(f"`{size}`" for fixed in wrapper.fixed for size in fixed.sizes)
    return (f"`{wrapper.model_type}`", f"`{wrapper.text}`{also}", YES if read_as in ROWS else NO, kept)


def _group(linears: tuple[str, ...]) -> str:
    names = ", ".join(SHORT.get(name, name) for name in (linear.rpartition(".")[2] for linear in linears))
    if "EncDecAttention" in linears[0]:
        return f"{names} of cross-attention"
    return f"{names} of the shared expert" if "shared_expert" in linears[0] else names


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
