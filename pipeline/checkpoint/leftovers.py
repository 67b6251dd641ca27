"""Stored tensors that no model reads: buffers that older versions of transformers saved and that its classes
compute themselves today, and blocks that predict tokens further ahead (multi-token prediction)."""

import re
from collections.abc import Iterable, Mapping

from pydantic import JsonValue

from pipeline.architecture.row import Architecture

# The last parts of their names, for every type: no parameter of a known type is called so.
_ENDINGS = (
    r"rotary_emb\.inv_freq",
    r"position_ids",
    r"attn\.(masked_)?bias",  # GPT-2: the causal mask, and the number that it writes
    r"attention\.(masked_)?bias",  # GPT-NeoX: the same
    r"decoder\.version",  # OPT
    r"EncDecAttention\.relative_attention_bias\.weight",  # T5: cross-attention has no relative positions
)
_HARMLESS = re.compile(rf"(^|\.)({'|'.join(_ENDINGS)})$")


def harmless(names: Iterable[str]) -> tuple[str, ...]:
    """Returns those of some tensor names that may be ignored where no model reads them."""
    return tuple(name for name in names if _HARMLESS.search(name))


def predicting_ahead(
    row: Architecture, config: Mapping[str, JsonValue], names: Iterable[str]
) -> tuple[str, ...]:
    """Returns those of some tensor names that belong to blocks which predict tokens further ahead. Where they
    are numbered on after the last block, config.json must say how many there are."""
    if row.ahead is None:
        return ()
    if row.ahead.prefix is not None:
        return tuple(name for name in names if name.startswith(row.ahead.prefix))
    blocks, more = (row.read(config, name) for name in (row.sizes["num_hidden_layers"], row.ahead.field))
    if not isinstance(blocks, int) or not isinstance(more, int):
        return ()
    bare = re.escape(row.blocks.partition(".")[2])
    numbers = "|".join(str(blocks + number) for number in range(more))
    further = re.compile(rf"({re.escape(row.blocks)}|{bare})\.({numbers})\.")
    return tuple(name for name in names if numbers and further.match(name))


def remark_on_ahead(row: Architecture, ahead: tuple[str, ...], *, stay: bool) -> str | None:
    """Returns the sentence about such tensors; None where there are none. `stay`: whether the result has
    them."""
    if not ahead or row.ahead is None:
        return None
    end = (
        "stay as they are" if stay else f"are left out, and config.json says {row.ahead.field} 0 from now on"
    )
    return (
        f"{len(ahead)} stored tensors predict tokens further ahead (multi-token prediction), and "
        f"transformers' class of {row.model_type} does not read them: {ahead[0]} and the others {end}"
    )


def remark_on(ignored: tuple[str, ...]) -> str | None:
    """Returns the sentence that names ignored tensors; None where there are none."""
    if not ignored:
        return None
    named = ", ".join(ignored[:3]) + (" ..." if len(ignored) > 3 else "")
    return (
        f"{len(ignored)} stored tensors are not read, because the model computes their values itself: {named}"
    )
