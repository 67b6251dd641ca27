"""Checkpoints with quantized weights in the format compressed-tensors, packed and read by its own library.

Servers that read it (vLLM, transformers) find in config.json how the weights lie in the files. Embeddings,
head, routers, norms and biases are those of the ordinary checkpoint.

Shape legend: O out_features, I in_features.
"""

import json
from collections.abc import Generator, Mapping
from typing import TYPE_CHECKING

import torch
from pydantic import JsonValue
from torch import Tensor

from pipeline.artifacts.refs import CheckpointRef
from pipeline.checkpoint.assemble import StoredTensors, assemble
from pipeline.checkpoint.keeps import held_tensors
from pipeline.checkpoint.layout import CONFIG_JSON
from pipeline.checkpoint.reader import CheckpointReader
from pipeline.checkpoint.stream import BlockStream
from pipeline.checkpoint.writer import copy_tensors, put_tensors
from pipeline.spec.quantization import Fp8, Gptq, Rtn
from pipeline.storage.content import ContentStore
from pipeline.tensor.rounding import fp8_scales, integer_scales

if TYPE_CHECKING:
    from compressed_tensors.quantization import QuantizationScheme

CompressedForm = Gptq | Rtn | Fp8
PACKED, FLOATS = "pack-quantized", "float-quantized"  # the library's names of the two layouts
SCALE = "weight_scale"
HEAD = "lm_head"


def write_compressed(
    content: ContentStore, final: CheckpointRef, rounded: CheckpointRef, form: CompressedForm
) -> Generator[int, None, CheckpointRef]:
    """Stores the checkpoint with quantized weights, one block in memory at a time. Yields the number of
    blocks that are done.

    The scales are those of the weights in `final`. The codes are the nearest ones to the weights in
    `rounded`, which is `final` itself unless a method has chosen the codes.
    """
    reader, chosen = CheckpointReader(content, final), CheckpointReader(content, rounded)
    stream = BlockStream(reader, dtype=torch.float32, device=torch.device("cpu"))
    packer = Packer(form)
    outer = copy_tensors(content, "outer.safetensors", reader, stream.outer_tensors())
    parts = [StoredTensors.of(outer)]
    for block in range(stream.num_blocks):
        linears = {f"{linear}.weight" for group in stream.groups(block) for linear in group}
        tensors: dict[str, Tensor] = {}
        for name, disk in stream.block_tensors(block).items():
            if name in linears:
                tensors |= packer.packed(disk, chosen.tensor(disk), scales_of=reader.tensor(disk))
            else:
                tensors[disk] = reader.tensor(disk)
        parts.append(StoredTensors.of(put_tensors(content, f"block-{block:05d}.safetensors", tensors)))
        yield block + 1
    config = {**reader.config, "quantization_config": packer.config(_left_alone(reader, stream))}
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    return assemble(content, final, parts, replaced={CONFIG_JSON: text.encode()})


class Packer:
    """Packs and unpacks the weights of one form, a matrix at a time."""

    def __init__(self, form: CompressedForm) -> None:
        from compressed_tensors.compressors import BaseCompressor

        self._form = form
        self._layout = FLOATS if isinstance(form, Fp8) else PACKED
        self._scheme = _scheme(form)
        self._compressor = BaseCompressor.get_value_from_registry(self._layout)

    def packed(self, name: str, weight_OI: Tensor, *, scales_of: Tensor) -> dict[str, Tensor]:
        """Returns the stored tensors of a weight by their names in the checkpoint. `name`: that of the
        ordinary weight; `scales_of`: the weight [O, I] from which the scales follow."""
        scale = self._scale(scales_of)
        state = {"weight": weight_OI.float(), SCALE: scale.float()}
        made = {**self._compressor.compress(state, self._scheme), SCALE: scale}
        module = name.removesuffix(".weight")
        return {f"{module}.{part}": tensor.contiguous() for part, tensor in made.items()}

    def unpacked(self, reader: CheckpointReader, name: str) -> Tensor:
        """Returns a weight as a stored checkpoint with packed weights gives it back, float32 [O, I]."""
        prefix = f"{name.removesuffix('.weight')}."
        stored = [one for one in reader.index.tensors if one.startswith(prefix)]
        state = {one.removeprefix(prefix): reader.tensor(one) for one in stored}
        state[SCALE] = state[SCALE].float()  # a code times its scale has no rounding in float32
        unpacked: Tensor = self._compressor.decompress(state, self._scheme)["weight"]
        return unpacked.float()

    def config(self, ignored: list[str]) -> dict[str, JsonValue]:
        """Returns `quantization_config` of config.json. `ignored`: linears that are not quantized."""
        from compressed_tensors.quantization import QuantizationConfig, QuantizationStatus

        made = QuantizationConfig(
            config_groups={"group_0": self._scheme},
            format=self._layout,
            quantization_status=QuantizationStatus.COMPRESSED,
            ignore=ignored,
        )
        config: dict[str, JsonValue] = json.loads(made.model_dump_json())
        return config

    def _scale(self, weight_OI: Tensor) -> Tensor:
        form = self._form
        if isinstance(form, Fp8):
            return fp8_scales(weight_OI, by_row=form.scales == "channel")
        return integer_scales(weight_OI, bits=form.bits, group_size=form.group_size)


def _scheme(form: CompressedForm) -> "QuantizationScheme":
    """Returns the library's description of a form: weights alone, symmetric."""
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    if isinstance(form, Fp8):
        fields: Mapping[str, object] = {"num_bits": 8, "type": "float", "strategy": form.scales}
    elif form.group_size is None:
        fields = {"num_bits": form.bits, "type": "int", "strategy": "channel"}
    else:
        grouped = {"strategy": "group", "group_size": form.group_size}
        fields = {"num_bits": form.bits, "type": "int", **grouped}
    layout = FLOATS if isinstance(form, Fp8) else PACKED
    return QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**fields), format=layout)


def _left_alone(reader: CheckpointReader, stream: BlockStream) -> list[str]:
    """Returns the modules with a matrix that is not quantized, and the head, which may share the embedding's
    and have none of its own."""
    quantized = {one.name for one in held_tensors(stream.row, reader.index.tensors)}
    matrices = (name for name, entry in reader.index.tensors.items() if len(entry.shape) == 2)
    left = {name.removesuffix(".weight") for name in matrices if name not in quantized}
    return sorted({*left, HEAD})
