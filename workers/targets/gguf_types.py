"""Writes the matrices of a GGUF file in another type, one tensor in memory at a time."""

import math
from pathlib import Path

import numpy as np
from gguf import (
    GGML_QUANT_SIZES,
    GGMLQuantizationType,
    GGUFReader,
    GGUFValueType,
    GGUFWriter,
    LlamaFileType,
    ReaderTensor,
)
from gguf.quants import dequantize, quantize

from pipeline.spec.targets import GgufType

FILE_TYPES: dict[GgufType, LlamaFileType] = {
    "F32": LlamaFileType.ALL_F32,
    "BF16": LlamaFileType.MOSTLY_BF16,
    "Q8_0": LlamaFileType.MOSTLY_Q8_0,
    "Q4_0": LlamaFileType.MOSTLY_Q4_0,
}
EMBEDDING, HEAD = "token_embd.weight", "output.weight"  # a file without a head has a tied one
PLAIN = ("general.architecture", "general.file_type")  # the writer itself writes these, and what is in GGUF.*


def write_as(plain: Path, path: Path, kind: GgufType) -> None:
    """Write a file whose matrices have another type than those of the file `plain`. Vectors stay as they are.
    With Q4_0 the head gets Q8_0, because llama.cpp's own tool too gives it more bits than the others."""
    reader = GGUFReader(plain)
    head = HEAD if any(tensor.name == HEAD for tensor in reader.tensors) else EMBEDDING
    writer = GGUFWriter(path, reader.fields["general.architecture"].contents())
    try:
        for name, field in reader.fields.items():
            if not name.startswith("GGUF.") and name not in PLAIN:
                value_type = field.types[0]
                inner = field.types[-1] if value_type == GGUFValueType.ARRAY else None
                writer.add_key_value(name, field.contents(), value_type, sub_type=inner)
        writer.add_file_type(FILE_TYPES[kind])
        for tensor in reader.tensors:
            own, shape = _type_of(tensor, kind, head), [int(size) for size in tensor.shape[::-1]]
            block, size = GGML_QUANT_SIZES[own]
            # float16 stands for any type here: the writer takes the type from `raw_dtype`
            writer.add_tensor_info(
                tensor.name, shape, np.dtype(np.float16), math.prod(shape) // block * size, raw_dtype=own
            )
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor in reader.tensors:
            wide = dequantize(tensor.data, tensor.tensor_type)
            writer.write_tensor_data(quantize(wide, _type_of(tensor, kind, head)))
    finally:
        writer.close()


def _type_of(tensor: ReaderTensor, kind: GgufType, head: str) -> GGMLQuantizationType:
    if len(tensor.shape) == 1:
        return tensor.tensor_type
    return GGMLQuantizationType["Q8_0" if kind == "Q4_0" and tensor.name == head else kind]
