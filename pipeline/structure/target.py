"""Turns the sizes that a spec requests into those of the smaller model, or names the nearest valid ones."""

from collections.abc import Callable, Mapping
from typing import NoReturn, get_args

from pydantic import JsonValue

from pipeline.architecture.axes import Size
from pipeline.architecture.row import Architecture
from pipeline.errors import InvalidSpec
from pipeline.structure.sizes import FOUR, Sizes, has_groups, sizes_of

EXPERT_ALIGNMENT = 8  # torch's grouped kernels need rows of 16 bytes, for bfloat16 too
FAST = 64  # tensor cores are fast with multiples of 64; hidden and FFN sizes use 128
FASTER = 128

Asked = Mapping[Size, int]
# The fields of `structure` that change sizes under other names.
_FIELDS: Mapping[Size, str] = {"num_hidden_layers": "drop_blocks", "vocab_size": "vocabulary"}


def target_sizes(
    row: Architecture, config: Mapping[str, JsonValue], asked: Asked, *, any_hidden: bool = False
) -> Sizes:
    """Returns the sizes of the smaller model. Raises InvalidSpec, which names the field and the nearest valid
    values.

    Heads stay whole, with their head_dim. If key-value heads are not requested, whole groups are dropped; if
    the heads do not divide that way, all groups stay and each loses the same number of query heads.
    `any_hidden`: heads need not divide hidden_size.
    """
    old = sizes_of(row, config)
    for size, wanted in asked.items():
        _known(row, old, size, wanted)
    new = old.model_copy(update={str(size): value for size, value in asked.items()})
    new = _with_heads(row, config, old, new, asked)
    new = _with_hidden(row, config, old, new, asked, any_hidden=any_hidden)
    if "intermediate_size" not in row.sizes and old.intermediate_size is not None:
        new = new.model_copy(update={"intermediate_size": FOUR * new.hidden_size})
    if row.shared_experts is not None:
        new = new.model_copy(update={"shared_expert_intermediate_size": _shared(old, new)})
    if new.num_experts is not None:
        for size in ("hidden_size", "moe_intermediate_size"):
            value, before = getattr(new, size), getattr(old, size)
            if value != before and value % EXPERT_ALIGNMENT:
                _refuse(
                    size,
                    value,
                    f"must be a multiple of {EXPERT_ALIGNMENT} in a model with experts",
                    nearest(value, before, lambda n: n % EXPERT_ALIGNMENT == 0),
                )
    return new


def check_fixed(
    row: Architecture, config: Mapping[str, JsonValue], old: Sizes, new: Sizes, asked: Asked
) -> None:
    """Raises InvalidSpec if a size changes that the row leaves alone, or does not follow from another one as
    the row says. The error names the size that was asked for, from which others follow."""
    if row.shared_experts is not None and new.shared_expert_intermediate_size != _shared(old, new):
        raise InvalidSpec(
            f"{row.model_type} has no field for the FFN of the shared expert, which is that of the experts "
            f"times {row.shared_experts} (config.json): keep {_shared(old, new)} of its channels with "
            f"{new.moe_intermediate_size} of each expert, got {new.shared_expert_intermediate_size}",
            "spec.structure.criterion",
        )
    for fixed in row.fixed:
        changed = [size for size in fixed.sizes if getattr(new, size) != getattr(old, size)]
        if not changed or not fixed.holds(config):
            continue
        size = next((size for size in changed if size in asked), changed[0])
        has = f" with {fixed.where} (config.json)" if fixed.where is not None else ""
        fields = ", ".join(_FIELDS.get(one, one) for one in fixed.sizes)
        field = _FIELDS.get(size) or (size if size in asked else next(iter(asked), "criterion"))
        raise InvalidSpec(
            f"{row.model_type}{has} keeps its {size}={getattr(old, size)}, and this structure would leave "
            f"{getattr(new, size)}: {fixed.why}; leave {fields} out",
            f"spec.structure.{field}",
        )


def check_shares(old: Sizes, new: Sizes, tensor_parallel: int) -> None:
    """Raises InvalidSpec, which names a size that the given number of ranks cannot share evenly."""
    for size in (
        "hidden_size",
        "num_attention_heads",
        "num_key_value_heads",
        "intermediate_size",
        "shared_expert_intermediate_size",
        "moe_intermediate_size",
    ):
        for what, value in (("the model's", getattr(old, size)), ("the asked", getattr(new, size))):
            if value is not None and value % tensor_parallel:
                raise InvalidSpec(
                    f"structure.tensor_parallel={tensor_parallel} does not divide {what} {size}={value}; "
                    f"lower it, or ask for a multiple of it",
                    "spec.structure.tensor_parallel",
                )


def slow_sizes(old: Sizes, new: Sizes) -> tuple[str, ...]:
    """Returns sentences about changed sizes with which matrix units are slow."""
    found = []
    for size, multiple in (
        ("hidden_size", FASTER),
        ("intermediate_size", FASTER),
        ("moe_intermediate_size", FAST),
        ("shared_expert_intermediate_size", FAST),
        ("vocab_size", FAST),
    ):
        value, before = getattr(new, size), getattr(old, size)
        if value is not None and value != before and value % multiple:
            near = nearest(value, before, lambda n, m=multiple: n % m == 0)  # type: ignore[misc]
            found.append(
                f"{size}={value} is no multiple of {multiple}, which GPUs are slow with; near it: "
                f"{_listed(near) or 'none'}"
            )
    return tuple(found)


def nearest(value: int, most: int, valid: Callable[[int], bool]) -> tuple[int, ...]:
    """Returns the closest valid values below (or at) and above a value, from 1 to `most`."""
    below = next((n for n in range(min(value, most), 0, -1) if valid(n)), None)
    above = next((n for n in range(max(value + 1, 1), most + 1) if valid(n)), None)
    return tuple(n for n in (below, above) if n is not None)


def _shared(old: Sizes, new: Sizes) -> int:
    """Returns the FFN of the shared expert, which stays as many times that of an expert."""
    times = (old.shared_expert_intermediate_size or 0) // (old.moe_intermediate_size or 1)
    return times * (new.moe_intermediate_size or 0)


def _known(row: Architecture, old: Sizes, size: Size, wanted: int) -> None:
    before = getattr(old, size)
    if size not in row.sizes or before is None:
        has = [name for name in get_args(Size) if name in row.sizes and getattr(old, name) is not None]
        raise InvalidSpec(
            f"{row.model_type} has no {size} of its own; sizes that can be asked for: {', '.join(has)}",
            f"spec.structure.{size}",
        )
    if wanted > before:
        raise InvalidSpec(
            f"structure.{size}={wanted} is more than the model has; at most {before}",
            f"spec.structure.{size}",
        )


def _with_heads(
    row: Architecture, config: Mapping[str, JsonValue], old: Sizes, new: Sizes, asked: Asked
) -> Sizes:
    heads, groups, wide = new.num_attention_heads, old.num_key_value_heads, old.heads_per_group
    if row.head_dim == "tied" and "num_attention_heads" not in asked and "hidden_size" in asked:
        if new.hidden_size % old.head_dim:
            _refuse(
                "hidden_size",
                new.hidden_size,
                f"must be a multiple of head_dim={old.head_dim}: {row.model_type} has no field for it",
                nearest(new.hidden_size, old.hidden_size, lambda n: n % old.head_dim == 0),
            )
        heads = new.hidden_size // old.head_dim
    if "num_key_value_heads" in asked:
        groups = asked["num_key_value_heads"]
        if not has_groups(row, config) and groups != old.num_key_value_heads:
            raise InvalidSpec(
                f"this {row.model_type} has a fixed number of key-value heads; leave num_key_value_heads out",
                "spec.structure.num_key_value_heads",
            )
        if "num_attention_heads" not in asked:
            heads = groups * wide
    elif heads % wide == 0 and (has_groups(row, config) or wide == 1):
        groups = heads // wide
    if heads % groups or heads // groups > wide:
        valid = (
            (lambda n: n % groups == 0 and n // groups <= wide)
            if "num_key_value_heads" in asked
            else (lambda n: n % wide == 0 or n % old.num_key_value_heads == 0)
        )
        _refuse(
            "num_attention_heads",
            heads,
            f"cannot be shared out evenly over {groups} key-value heads of at most {wide} query heads each",
            nearest(heads, old.num_attention_heads, valid),
        )
    return new.model_copy(update={"num_attention_heads": heads, "num_key_value_heads": groups})


def _with_hidden(
    row: Architecture,
    config: Mapping[str, JsonValue],
    old: Sizes,
    new: Sizes,
    asked: Asked,
    *,
    any_hidden: bool,
) -> Sizes:
    hidden, heads = new.hidden_size, new.num_attention_heads
    if row.head_dim == "tied":
        tied = heads * old.head_dim
        if "hidden_size" in asked and hidden != tied:
            _refuse(
                "hidden_size",
                hidden,
                f"must be {heads} heads × head_dim={old.head_dim}: {row.model_type} has no field for "
                f"head_dim",
                (tied,),
            )
        hidden = tied
    if row.head_dim == "divides" and hidden % heads and not any_hidden:
        _refuse(
            "hidden_size",
            hidden,
            f"must be a multiple of num_attention_heads={heads}, as transformers' class for "
            f"{row.model_type} checks (export_as: mistral does not)",
            nearest(hidden, old.hidden_size, lambda n: n % heads == 0),
        )
    for field in row.follows_hidden:
        if config.get(field) not in (None, old.hidden_size) and hidden == config.get(field):
            _refuse(
                "hidden_size",
                hidden,
                f"must differ from {field}={config[field]}: the model would lose its projections",
                (hidden - old.head_dim, hidden + old.head_dim),
            )
    return new.model_copy(update={"hidden_size": hidden})


def _refuse(size: str, value: int, why: str, near: tuple[int, ...]) -> NoReturn:
    raise InvalidSpec(
        f"structure.{size}={value} {why}; nearest valid: {_listed(near) or 'none'}", f"spec.structure.{size}"
    )


def _listed(values: tuple[int, ...]) -> str:
    return ", ".join(map(str, values))
