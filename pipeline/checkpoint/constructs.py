"""Makes transformers' class with the config of a cut model, before anything is computed.

Some classes derive sizes from others, so that not every set of sizes is a model: the factor lists of Phi-3's
long rope follow from hidden_size and heads.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial

from pydantic import JsonValue

from pipeline.architecture.axes import Size
from pipeline.architecture.row import Architecture
from pipeline.architecture.rows import row_for
from pipeline.checkpoint.class_config import class_config
from pipeline.checkpoint.skeleton import empty_model
from pipeline.checkpoint.slicing import full_config
from pipeline.errors import InvalidRequest, InvalidSpec, UnsupportedCheckpoint
from pipeline.spec.structure import Structure
from pipeline.structure.criteria import Explicit
from pipeline.structure.sizes import Sizes, resized, sizes_of

MOST_TRIES = 4096  # sizes that are tried in each direction; making a config takes about a millisecond
TOGETHER: tuple[Size, ...] = ("hidden_size", "num_attention_heads")  # tried even if they are not asked for
Sized = Mapping[Size, int]


def check_constructs(structure: Structure, config: Mapping[str, JsonValue]) -> None:
    """Raises InvalidSpec unless transformers makes the model that `structure` cuts out of the one with this
    config.json. The error names the nearest sizes of which it does."""
    dense = full_config(config)
    row = row_for(str(dense["model_type"]))
    why = _refused(row, structure, dense, whole=True)
    if why is None:
        return
    asked = ", ".join(f"{size}={value}" for size, value in structure.asked.items())
    near = [] if isinstance(structure.criterion, Explicit) else list(_nearest(row, structure, dense))
    raise InvalidSpec(
        f"structure with {asked or 'this cut'} is no model: {why}; "
        f"nearest valid: {', or '.join(near) or 'none near; leave the sizes out'}",
        _field(structure),
    )


def _refused(
    row: Architecture, structure: Structure, dense: Mapping[str, JsonValue], *, whole: bool
) -> str | None:
    """Returns why the cut model cannot be made; None if it can. `whole`: its modules are made too, and not
    only its config. Raises what `structure.target` does."""
    new = structure.target(row, dense)
    changes = structure.changes(row, dense)
    smaller = {**resized(row, dense, new, structure.foreseen(row, dense)), **changes}
    try:
        if whole:
            empty_model(smaller)
        else:
            class_config(smaller)
    except UnsupportedCheckpoint as error:
        return error.message
    return None


def _nearest(row: Architecture, structure: Structure, dense: Mapping[str, JsonValue]) -> Iterator[str]:
    """Yields what could be asked for instead, such as `hidden_size=64`: one size changed, or hidden_size and
    heads together with the same head_dim."""
    sizes = sizes_of(row, dense)
    asked: Sized = {**{size: getattr(sizes, size) for size in TOGETHER}, **structure.asked}

    def one(size: Size, value: int) -> Sized:
        return {size: value}

    def both(value: int) -> Sized:
        heads, rest = divmod(value, sizes.head_dim)
        return {} if rest else {"hidden_size": value, "num_attention_heads": heads}

    kinds: list[tuple[Callable[[int], Sized], int, int]] = [
        (partial(one, size), value, getattr(sizes, size)) for size, value in asked.items()
    ]
    kinds.append((both, asked["hidden_size"], sizes.hidden_size))
    said: set[str] = set()
    for changed, value, most in kinds:
        for direction in (range(value, 0, -1), range(value + 1, most + 1)):
            tried = (changed(n) for n in direction[:MOST_TRIES])
            found = next((one for one in tried if one and _is_model(row, structure, dense, one)), {})
            words = " with ".join(f"{size}={n}" for size, n in found.items() if n != asked[size])
            if words and words not in said:
                said.add(words)
                yield words


def _is_model(
    row: Architecture, structure: Structure, dense: Mapping[str, JsonValue], changed: Sized
) -> bool:
    other = structure.model_copy(update={str(size): value for size, value in changed.items()})
    old = sizes_of(row, dense)
    try:
        new = other.target(row, dense)
        if old.hidden_size == _width(old) and new.hidden_size != _width(new):
            return False  # its heads would be narrower or wider together than hidden_size
        if _refused(row, other, dense, whole=False) is not None:
            return False
        return _refused(row, other, dense, whole=True) is None
    except InvalidRequest:
        return False


def _width(sizes: Sizes) -> int:
    return sizes.num_attention_heads * sizes.head_dim


def _field(structure: Structure) -> str:
    """Returns the field to change: the first size that is asked for."""
    return next((f"spec.structure.{size}" for size in structure.asked), "spec.structure.criterion")
