"""Names of tensors that show that a model was saved from inside of a training library's wrapper."""

import re
from collections.abc import Collection

from pipeline.errors import UnsupportedCheckpoint

WRAPPED = (
    (
        r"\.(base_layer|lora_[A-Za-z_]+|modules_to_save|original_module)\.",
        "those of a model whose adapter was never merged",
        "in the program that trained it, call model = model.merge_and_unload() before "
        "model.save_pretrained('NEW')",
    ),
    (
        r"^base_model\.model\.",
        "named by peft's wrapper",
        "save what it wraps: model.merge_and_unload().save_pretrained('NEW')",
    ),
    (
        r"^_orig_mod\.",
        "named by torch.compile's wrapper",
        "save what it wraps: model._orig_mod.save_pretrained('NEW')",
    ),
    (
        r"^(module|_fsdp_wrapped_module)\.",
        "named by the wrapper of a distributed model",
        "save what it wraps: model.module.save_pretrained('NEW')",
    ),
)


def check_tensor_names(names: Collection[str]) -> None:
    """Raises UnsupportedCheckpoint with the first such name, and with what to do in the training program."""
    for pattern, what, remedy in WRAPPED:
        found = sorted(name for name in names if re.search(pattern, name))
        if found:
            raise UnsupportedCheckpoint(
                f"{len(found)} of {len(names)} tensors are {what}, such as {found[0]}; {remedy}",
                "spec.model.source",
            )
