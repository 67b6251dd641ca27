"""Stored tensors that no model reads and that may be ignored: buffers that older versions of transformers
saved, and that its classes compute themselves today."""

import re
from collections.abc import Iterable

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


def remark_on(ignored: tuple[str, ...]) -> str | None:
    """Returns the sentence that names ignored tensors; None where there are none."""
    if not ignored:
        return None
    named = ", ".join(ignored[:3]) + (" ..." if len(ignored) > 3 else "")
    return (
        f"{len(ignored)} stored tensors are not read, because the model computes their values itself: {named}"
    )
