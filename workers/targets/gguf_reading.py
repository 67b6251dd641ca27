"""Reads the matrices of a GGUF file that was written here, under the names and in the order of the
checkpoint."""

from pathlib import Path

import numpy as np
import torch
from gguf import GGUFReader, dequantize
from torch import Tensor
from transformers import AutoConfig

from pipeline.serving.llama_cpp import ARCHITECTURES
from workers.targets.gguf_file import Weights


class GgufMatrices:
    """The matrices of `path`, which was made of the checkpoint in `directory`. They stay on the disk until
    they are asked for."""

    def __init__(self, path: Path, directory: Path) -> None:
        config = AutoConfig.from_pretrained(directory)
        self._weights = Weights(directory, config, ARCHITECTURES[config.model_type])
        self._stored = {tensor.name: tensor for tensor in GGUFReader(path).tensors}

    def matrix(self, name: str) -> Tensor:
        """Returns a weight by its name in the checkpoint as gguf expands it, float32 [O, I]."""
        stored = self._stored[self._weights.called(name)]
        rows = np.array(dequantize(stored.data, stored.tensor_type), dtype=np.float32)
        return self._weights.unordered(name, torch.from_numpy(rows))
