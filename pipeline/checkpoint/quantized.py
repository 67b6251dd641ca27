"""Checkpoints that are published in a quantized format alone, and read dequantized (dequantizing.py).

Which types may be read so is a column of their rows. Every other quantized checkpoint is refused (plain.py).
Nothing here needs torch.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace

from pydantic import JsonValue

from pipeline.architecture.row import Architecture, Format
from pipeline.checkpoint.header import TensorFacts
from pipeline.checkpoint.slices import CODES
from pipeline.errors import UnsupportedCheckpoint

FIELD = "quantization_config"
DTYPE = "BF16"  # of what is read
BLOCKS, SCALES = CODES  # MXFP4: what follows the name of a tensor
SCALE_INV = "_scale_inv"  # FP8: the same for its scales; the codes have the tensor's own name
BITS: Mapping[Format, float] = {"mxfp4": 4.25, "fp8": 8.0}  # of a weight, with its share of a scale
_BLOCK = [128, 128]


def read_as(row: Architecture, config: Mapping[str, JsonValue]) -> Format | None:
    """Returns the format that config.json states if checkpoints of this type are read from it; None for plain
    weights and for every other format."""
    said = config.get(FIELD)
    if not isinstance(said, dict):
        return None
    found = next((one for one in row.quantized if one == said.get("quant_method")), None)
    if found == "fp8" and said.get("weight_block_size") != _BLOCK:
        return None
    return found


def note_on(kind: Format) -> str:
    """Returns the sentence that says how the weights are read."""
    return (
        f"the weights are stored as {kind} ({FIELD} in config.json): they are read dequantized, as bfloat16, "
        f"and the result is plain bfloat16 without {FIELD}"
    )


def codes_of(row: Architecture, names: Collection[str]) -> dict[str, tuple[str, str]]:
    """Maps each tensor that is stored quantized to the stored names of its codes and its scales."""
    found: dict[str, tuple[str, str]] = {}
    for name in names:
        whole = name.removesuffix(BLOCKS)
        if "mxfp4" in row.quantized and whole != name and f"{whole}{SCALES}" in names:
            found[whole] = (name, f"{whole}{SCALES}")
        if "fp8" in row.quantized and f"{name}{SCALE_INV}" in names:
            found[name] = (name, f"{name}{SCALE_INV}")
    return found


def as_read(row: Architecture, tensors: Mapping[str, TensorFacts]) -> dict[str, TensorFacts]:
    """Returns what is read of stored tensors: for codes and their scales the tensor that they make, all
    others as they are. Raises UnsupportedCheckpoint for codes and scales that do not belong together."""
    quantized = codes_of(row, tensors)
    used = {name for pair in quantized.values() for name in pair}
    found = {name: facts for name, facts in tensors.items() if name not in used}
    for name, (codes, scales) in quantized.items():
        shape = _shape(tensors[codes], tensors[scales])
        if shape is None:
            raise UnsupportedCheckpoint(
                f"{codes} in {tensors[codes].file} is {_said(tensors[codes])}, and {scales} is "
                f"{_said(tensors[scales])}, which are not the codes and scales of one tensor; download the "
                f"checkpoint again",
                "spec.model.source",
            )
        found[name] = replace(tensors[codes], dtype=DTYPE, shape=shape)
    return found


def _said(facts: TensorFacts) -> str:
    return f"{facts.dtype} {list(facts.shape)}"


def _shape(codes: TensorFacts, scales: TensorFacts) -> tuple[int, ...] | None:
    """Returns the shape of a tensor as it is read; None if codes and scales do not fit each other."""
    if codes.dtype == scales.dtype == "U8" and codes.shape[3:] == (16,) and codes.shape[:3] == scales.shape:
        experts, outputs, groups = scales.shape
        return experts, groups * 32, outputs
    blocks = tuple(-(-length // size) for length, size in zip(codes.shape, _BLOCK, strict=False))
    if codes.dtype == "F8_E4M3" and len(codes.shape) == 2 and blocks == scales.shape:
        return codes.shape
    return None
