"""Checks that a checkpoint holds plain weights: floating point, not empty, of the sizes that config.json
states. They need the headers and config.json alone, so that they can be made where there is no torch."""

import re
from collections.abc import Collection, Iterator, Mapping

from pydantic import JsonValue

from pipeline.architecture.axes import Dimension, Size
from pipeline.architecture.row import Architecture
from pipeline.architecture.rows import row_for
from pipeline.checkpoint.header import TensorFacts
from pipeline.checkpoint.language_model import language_config, language_names
from pipeline.checkpoint.leftovers import harmless, predicting_ahead
from pipeline.checkpoint.quantized import as_read
from pipeline.checkpoint.wrapped import check_tensor_names
from pipeline.errors import UnsupportedCheckpoint

FLOATS = ("F64", "F32", "BF16", "F16")
DEQUANTIZE = (
    "prune the original weights, or dequantize first (load with the library that quantized it, and save "
    "bfloat16 weights), and quantize the result"
)
# The marks of ModelOpt, AutoGPTQ, AutoAWQ, compressed-tensors and MLX.
QUANTIZED_FILES = ("hf_quant_config.json", "quantize_config.json", "quant_config.json")
QUANTIZED_FIELDS = ("quantization_config", "compression_config", "quantization")
# The last part of the names under which quantizers store scales, zero points and packed codes.
_CODES = re.compile(
    r"(^|[._])(scales?|scale_\d+|scale_inv|zeros|qzeros|zero_point|qweight|weight_packed|weight_shape|weight_format|"
    r"g_idx|SCB|absmax|quant_map|quant_state|bitsandbytes__\w+)$"
)
_EXACT: Mapping[Dimension, Size] = {
    "vocabulary": "vocab_size",
    "hidden": "hidden_size",
    "ffn": "intermediate_size",
}


def check_marks(config: Mapping[str, JsonValue], names: Collection[str], *, where: str) -> None:
    """Checks that neither config.json nor the name of a file says that the weights are quantized. `names`:
    the files beside them. Raises UnsupportedCheckpoint."""
    for field in QUANTIZED_FIELDS:
        said = config.get(field)
        if said:
            method = said.get("quant_method") if isinstance(said, dict) else said
            raise UnsupportedCheckpoint(
                f"{where} is quantized ({method}), as {field} in config.json says; {DEQUANTIZE}"
            )
    for name in QUANTIZED_FILES:
        if name in names:
            raise UnsupportedCheckpoint(
                f"{where} has {name}, which says that its weights are quantized; {DEQUANTIZE}, or remove "
                f"the file if it belongs to other weights"
            )


def check_plain(config: Mapping[str, JsonValue], tensors: Mapping[str, TensorFacts], *, where: str) -> None:
    """Checks the types and shapes of all stored tensors as far as that is possible without the model's class.
    `config`: the content of config.json; of a multimodal one, sizes are those of the language model.

    Raises UnsupportedCheckpoint for the names of a training library's wrapper, quantized weights, empty
    tensors, and sizes other than those that config.json states.
    """
    check_tensor_names(tensors)
    alone = language_config(config)
    row = row_for(str(alone.get("model_type")))
    tensors = as_read(row, tensors)
    ignored = {*harmless(tensors), *predicting_ahead(row, alone, tensors)}
    read = {name: facts for name, facts in tensors.items() if name not in ignored}
    codes = [name for name in read if _CODES.search(name) and _place(row, name)[1] not in row.inner]
    others = [name for name, facts in read.items() if facts.dtype not in FLOATS]
    if codes or others:
        raise UnsupportedCheckpoint(
            f"{where} holds quantized weights: {_quantized(read, codes, others)}; {DEQUANTIZE}"
        )
    empty = [name for name, facts in read.items() if 0 in facts.shape]
    if empty:
        raise UnsupportedCheckpoint(
            f"{where}: {len(empty)} of {len(read)} tensors are empty, the first: {empty[0]} "
            f"{list(read[empty[0]].shape)}. ZeRO stage 3 leaves such files when a model is saved without "
            f"gathering its weights; put them together from the training checkpoint: python zero_to_fp32.py "
            f"CHECKPOINT OUT --safe_serialization"
        )
    names = language_names(config, read)
    _check_blocks(row, alone, names, where=where)
    for name, stated, at in _stated(row, alone, {own: read[name] for own, name in names.items()}):
        shape = read[names[name]].shape
        if shape[at] != stated[1]:
            raise UnsupportedCheckpoint(_other_size(row, names[name], shape, at, stated, where=where))


def _quantized(read: Mapping[str, TensorFacts], codes: list[str], others: list[str]) -> str:
    said = []
    if others:
        name, facts = others[0], read[others[0]]
        first = f"{name} in {facts.file}, {facts.dtype}"
        said.append(f"{len(others)} tensors are not floating point, the first: {first}")
    if codes:
        said.append(
            f"{len(codes)} are scales or codes of a quantizer, the first: {codes[0]} in {read[codes[0]].file}"
        )
    return "; ".join(said)


def _check_blocks(
    row: Architecture, config: Mapping[str, JsonValue], read: Collection[str], *, where: str
) -> None:
    """Compares the number of blocks. A class with a wrong number would be slow to make, or never be made."""
    places = [place for name in read if (place := _place(row, name)[0]) is not None]
    for stack, field in row.stacks:
        stated = row.read(config, field)
        stored = 1 + max((block for in_stack, block in places if in_stack == stack), default=-1)
        if stored == 0 and read:
            raise UnsupportedCheckpoint(
                f"{where} holds no blocks of {row.model_type}: names such as {stack}.0 were expected, and "
                f"the first is {min(read)}; save the language model itself, without what is wrapped around "
                f"it (torch.compile, DistributedDataParallel, a multimodal model)"
            )
        if isinstance(stated, int) and stored != stated:
            raise UnsupportedCheckpoint(
                f"{where} holds {stored} blocks, and config.json says {field} {stated}; use the config.json "
                f"that belongs to the weights, or set {field} to {stored} if the others were cut away on "
                f"purpose"
            )


def _stated(
    row: Architecture, config: Mapping[str, JsonValue], read: Mapping[str, TensorFacts]
) -> Iterator[tuple[str, tuple[str, int], int]]:
    """Yields every tensor with a dimension whose length is a field of config.json: name, field with value,
    number of the dimension."""
    varying = {size for one in row.fixed if one.varies and one.holds(config) for size in one.sizes}
    for name, facts in read.items():
        try:
            labels = row.labels(_place(row, name)[1])
        except UnsupportedCheckpoint:
            continue  # no tensor of this type: the comparison with its class says so
        for at, label in enumerate(labels[: len(facts.shape)]):
            size = _EXACT.get(label)
            if size in varying:
                continue
            field = row.sizes.get(size) if size is not None else None
            value = row.read(config, field) if field is not None else None
            if field is not None and isinstance(value, int) and not isinstance(value, bool):
                yield name, (field, value), at


def _other_size(
    row: Architecture, name: str, shape: tuple[int, ...], at: int, stated: tuple[str, int], *, where: str
) -> str:
    field, value = stated
    said = f"{where}: {name} has shape {list(shape)}, and config.json says {field} {value}"
    if field != row.sizes["vocab_size"]:
        return f"{said}; use the config.json that belongs to the weights"
    return (
        f"{said}: the tokens have {shape[at]} rows; set {field} to {shape[at]} if the weights are right, or "
        f"save the model again after resize_token_embeddings({value})"
    )


def _place(row: Architecture, name: str) -> tuple[tuple[str, int] | None, str]:
    """Returns the stack and number of the block that a tensor belongs to, None outside of them, and its
    module's name: inside the block, or in the model. Checkpoints of the base model lack the first part of the
    names."""
    ours, theirs = row.renamed or ("", "")
    named = name.replace(theirs, ours) if theirs else name
    for stack, _ in row.stacks:
        bare = stack.partition(".")[2]
        block = re.match(rf"({re.escape(stack)}|{re.escape(bare)})\.(\d+)\.", named)
        if block is not None:
            return (stack, int(block[2])), named[block.end() :]
    without = {module.partition(".")[2]: module for module in row.outer if "." in module}
    module, _, kind = named.rpartition(".")
    return None, f"{without.get(module, module)}.{kind}"
