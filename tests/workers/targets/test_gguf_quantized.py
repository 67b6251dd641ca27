"""GGUF files with quantized matrices: gguf's own reader gives back what its quantizers made of them."""

import shutil
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.workers.targets.made_models import compared, made_model
from workers.targets.agreement import SIXTEEN
from workers.targets.gguf_file import Matrices, write_gguf
from workers.targets.gguf_reading import GgufMatrices


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model of which every third weight of a linear is zero, one row whole."""
    model = made_model(tmp_path_factory.mktemp("gguf") / "model", dtype="bfloat16")
    weights = load_file(model / "model.safetensors")
    for name, weight in weights.items():
        if name.endswith("_proj.weight"):
            weight.view(-1)[::3] = 0
            weight[1] = 0
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    return model


@pytest.mark.parametrize(("matrices", "file_type"), [("Q8_0", 7), ("Q4_0", 2), ("BF16", 32)])
def test_matrices_come_back_in_the_order_of_the_checkpoint(
    matrices: Matrices, file_type: int, pruned: Path, tmp_path: Path
) -> None:
    path = tmp_path / "model.gguf"
    write_gguf(pruned, path, matrices=matrices)
    reader = gguf.GGUFReader(path)
    kinds = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert kinds["blk.1.attn_q.weight"] == kinds["blk.3.ffn_down.weight"] == matrices
    assert kinds["token_embd.weight"] == "BF16"
    assert kinds["blk.0.attn_norm.weight"] == "F32"
    assert reader.fields["general.file_type"].contents() == file_type
    read = GgufMatrices(path, pruned)
    kind = gguf.GGMLQuantizationType[matrices]
    for name, weight in load_file(pruned / "model.safetensors").items():
        if not name.endswith("_proj.weight"):
            continue
        wanted = gguf.dequantize(gguf.quantize(weight.float().numpy(), kind), kind)
        back = read.matrix(name)
        np.testing.assert_array_equal(back.numpy(), wanted)
        assert bool((back[weight == 0] == 0).all()), name
        if matrices == "BF16":
            assert torch.equal(back, weight.float())


def test_llama_cpp_answers_as_transformers_does_with_what_comes_back(pruned: Path, tmp_path: Path) -> None:
    """It rounds activations too, so the tolerance is that of narrow types; wrong rows differ by more."""
    written, back = tmp_path / "written", shutil.copytree(pruned, tmp_path / "back")
    written.mkdir()
    write_gguf(pruned, written / "model.gguf", matrices="Q4_0")
    read, weights = GgufMatrices(written / "model.gguf", pruned), load_file(back / "model.safetensors")
    for name in weights:
        if name.endswith("_proj.weight"):
            weights[name] = read.matrix(name).to(torch.bfloat16)
    save_file(weights, back / "model.safetensors", metadata={"format": "pt"})
    found = compared("llama.cpp", back, written)
    assert found.tokens == 48
    assert found.difference < found.tolerance == SIXTEEN["bfloat16"]
