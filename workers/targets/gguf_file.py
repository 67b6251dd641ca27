"""Writes a checkpoint as a GGUF file, one tensor in memory at a time."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from gguf import (
    GGML_QUANT_SIZES,
    GGML_QUANT_VERSION,
    MODEL_ARCH,
    MODEL_ARCH_NAMES,
    GGMLQuantizationType,
    GGUFWriter,
    LlamaFileType,
    RopeScalingType,
    get_tensor_name_map,
    quantize,
)
from safetensors import safe_open
from torch import Tensor
from transformers import AutoConfig, PretrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from pipeline.architecture.rows import row_for
from pipeline.checkpoint.keeps import held_tensors
from pipeline.errors import UnsupportedCheckpoint
from pipeline.serving.llama_cpp import ARCHITECTURES, INTERLEAVED, check_gguf
from workers.targets.gguf_tokenizer import add_tokenizer

FIELD = "spec.target"
TYPES = {
    torch.float32: GGMLQuantizationType.F32,
    torch.float16: GGMLQuantizationType.F16,
    torch.bfloat16: GGMLQuantizationType.BF16,
}  # GGUF's, by stored type
FILE_TYPES = {
    GGMLQuantizationType.F32: LlamaFileType.ALL_F32,
    GGMLQuantizationType.F16: LlamaFileType.MOSTLY_F16,
    GGMLQuantizationType.BF16: LlamaFileType.MOSTLY_BF16,
    GGMLQuantizationType.Q8_0: LlamaFileType.MOSTLY_Q8_0,
    GGMLQuantizationType.Q4_0: LlamaFileType.MOSTLY_Q4_0,
}  # GGUF's number for a file of which most weights have a type
ROPE_FACTORS = "rope_freqs.weight"
Matrices = Literal["Q8_0", "Q4_0", "BF16"]


def write_gguf(directory: Path, path: Path, *, matrices: Matrices | None = None) -> None:
    """Write a Hugging Face directory of a type in ARCHITECTURES, with its tokenizer, in its stored types.
    Vectors, such as gains of norms, become float32, which llama.cpp asks for. `matrices`: the type of the
    linears that may be pruned, which gguf's own quantizers make; embedding and head keep theirs. Raises
    InvalidSpec, and UnsupportedCheckpoint for a tensor without a place in GGUF."""
    config = AutoConfig.from_pretrained(directory)
    check_gguf(config.model_type, config.to_dict(), field=FIELD)
    architecture = ARCHITECTURES[config.model_type]
    writer = GGUFWriter(path, architecture)
    weights = Weights(directory, config, architecture, matrices=matrices)
    try:
        _add_sizes(writer, config)
        writer.add_file_type(weights.file_type)
        if matrices is not None:
            writer.add_quantization_version(GGML_QUANT_VERSION)
        add_tokenizer(writer, directory, rows=config.vocab_size)
        for name, shape, kind in weights.infos():
            per_block, block_bytes = GGML_QUANT_SIZES[kind]
            size = int(np.prod(shape)) // per_block * block_bytes
            # float16 stands for any type: the writer takes the type from `raw_dtype`
            writer.add_tensor_info(name, shape, np.dtype(np.float16), size, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor, kind in weights.tensors():
            writer.write_tensor_data(_bytes(tensor, kind))
    finally:
        writer.close()


def _bytes(tensor: Tensor, kind: GGMLQuantizationType) -> np.ndarray[Any, Any]:
    """The values as GGUF stores them; those that are of that type already stay as they are, to the bit."""
    plain = tensor.contiguous()
    if TYPES[plain.dtype] != kind:
        made: np.ndarray[Any, Any] = quantize(plain.float().numpy(), kind)
        return made
    return (plain.view(torch.uint16) if plain.dtype == torch.bfloat16 else plain).numpy()


class Weights:
    """The tensors of a checkpoint in GGUF's names, types and order of rows. `matrices`: see write_gguf."""

    def __init__(
        self,
        directory: Path,
        config: PretrainedConfig,
        architecture: str,
        *,
        matrices: Matrices | None = None,
    ) -> None:
        numbers = {name: number for number, name in MODEL_ARCH_NAMES.items()}
        self._names = get_tensor_name_map(MODEL_ARCH(numbers[architecture]), config.num_hidden_layers)
        self._config = config
        self._interleaved = architecture in INTERLEAVED
        self._factors = _rope_factors(config)
        self._places: dict[str, tuple[Path, str]] = {}  # GGUF's name → file and name there
        for shard in sorted(directory.glob("*.safetensors")):
            with safe_open(shard, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 - a file is no dict
                    if name == "lm_head.weight" and config.tie_word_embeddings:
                        continue  # llama.cpp takes the embedding where there is no output
                    self._places[self.called(name)] = shard, name
        self._kinds: dict[str, GGMLQuantizationType] = {}  # of tensors that do not keep their own
        if matrices is not None:
            stored = (name for _, name in self._places.values())
            held = held_tensors(row_for(config.model_type), stored)
            self._kinds = dict.fromkeys((one.name for one in held), GGMLQuantizationType[matrices])

    @property
    def file_type(self) -> int:
        """GGUF's number for the type of most matrices."""
        kinds = [kind for _, shape, kind in self.infos() if len(shape) > 1]
        return int(FILE_TYPES[max(kinds, key=kinds.count)])

    def infos(self) -> Iterator[tuple[str, tuple[int, ...], GGMLQuantizationType]]:
        """The name, shape and type of each tensor, in the order of `tensors`."""
        if self._factors is not None:
            yield ROPE_FACTORS, tuple(self._factors.shape), GGMLQuantizationType.F32
        for called, (shard, name) in self._places.items():
            with safe_open(shard, framework="pt") as file:
                part = file.get_slice(name)
                shape = tuple(part.get_shape())
                dtype = torch.float32 if len(shape) == 1 else part[:0].dtype
            yield called, shape, self._kinds.get(name, TYPES[dtype])

    def tensors(self) -> Iterator[tuple[Tensor, GGMLQuantizationType]]:
        """Each tensor with its type, in the order of `infos`."""
        if self._factors is not None:
            yield self._factors, GGMLQuantizationType.F32
        for shard, name in self._places.values():
            with safe_open(shard, framework="pt") as file:
                tensor = file.get_tensor(name)
            tensor = tensor.float() if tensor.dim() == 1 else tensor
            yield self._ordered(name, tensor), self._kinds.get(name, TYPES[tensor.dtype])

    def called(self, name: str) -> str:
        """GGUF's name of a tensor. Raises UnsupportedCheckpoint."""
        called: str | None = self._names.get_name(name, try_suffixes=(".weight", ".bias"))
        if called is None:
            raise UnsupportedCheckpoint(
                f"tensor {name} of {self._config.model_type} has no name in GGUF", FIELD
            )
        return called

    def _ordered(self, name: str, tensor: Tensor) -> Tensor:
        """The rows of queries and keys in the order in which llama.cpp turns them: transformers pairs row i
        of a head with row i + head_dim / 2, and llama.cpp pairs rows 2i and 2i + 1."""
        heads = self._turned_heads(name)
        if heads is None:
            return tensor
        halves = tensor.view(heads, 2, tensor.shape[0] // heads // 2, -1)
        return halves.transpose(1, 2).reshape(tensor.shape)

    def unordered(self, name: str, tensor: Tensor) -> Tensor:
        """A tensor of the file with its rows in the order of the checkpoint again."""
        heads = self._turned_heads(name)
        if heads is None:
            return tensor
        pairs = tensor.view(heads, tensor.shape[0] // heads // 2, 2, -1)
        return pairs.transpose(1, 2).reshape(tensor.shape)

    def _turned_heads(self, name: str) -> int | None:
        """The number of heads whose rows are in another order in the file; None if there are none."""
        heads = {
            "q_proj": self._config.num_attention_heads,
            "k_proj": self._config.num_key_value_heads,
        }
        return heads.get(name.split(".")[-2]) if self._interleaved else None


def _add_sizes(writer: GGUFWriter, config: PretrainedConfig) -> None:
    head_dim = _head_dim(config)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    # llama.cpp would take hidden_size / heads, which is another number once heads or channels are cut
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    rope = config.rope_parameters
    writer.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])


def _rope_factors(config: PretrainedConfig) -> Tensor | None:
    """The number by which each frequency is divided, where config.json scales them as Llama 3.1 does."""
    if config.rope_parameters["rope_type"] != "llama3":
        return None
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    even = torch.arange(0, _head_dim(config), 2, dtype=torch.float32) / _head_dim(config)
    factors: Tensor = (config.rope_parameters["rope_theta"] ** -even) / scaled
    return factors


def _head_dim(config: PretrainedConfig) -> int:
    given: int | None = getattr(config, "head_dim", None)
    return given or config.hidden_size // config.num_attention_heads
