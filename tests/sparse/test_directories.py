"""Packed checkpoints: whole directories."""

import filecmp
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from secateur.sparse.directories import (
    INDEX,
    pack_directory,
    packed_directory,
    unpack_directory,
    weight_files,
)
from secateur.sparse.errors import SparseError
from tests.models import tiny_checkpoint
from tests.sparse.pruned import pruned_checkpoint


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pruned checkpoint in several files."""
    return pruned_checkpoint("llama", tmp_path_factory.mktemp("packed") / "model", max_shard_size="200KB")


def files_below(directory: Path) -> set[str]:
    return {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}


def test_a_checkpoint_comes_back_file_by_file(sharded: Path, tmp_path: Path) -> None:
    made = pack_directory(sharded, tmp_path / "packed", values="float32")
    assert made.lossless
    assert made.sparse_bytes < made.dense_bytes
    assert files_below(tmp_path / "packed") == files_below(sharded)
    assert len(weight_files(sharded)) > 1
    assert filecmp.cmp(tmp_path / "packed" / INDEX, sharded / INDEX, shallow=False)
    unpack_directory(tmp_path / "packed", tmp_path / "again")
    equal, other, lost = filecmp.cmpfiles(sharded, tmp_path / "again", files_below(sharded), shallow=False)
    assert (set(equal), other, lost) == (files_below(sharded), [], [])
    assert files_below(tmp_path / "again") == files_below(sharded)


def test_transformers_does_not_take_packed_weights_for_ordinary_ones(sharded: Path, tmp_path: Path) -> None:
    """It would fill their places at random."""
    pack_directory(sharded, tmp_path / "packed", values="float32")
    with pytest.raises(ValueError, match="packed by Secateur; open them with"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "packed")


def test_packed_weights_lie_beside_the_ordinary_ones(sharded: Path, tmp_path: Path) -> None:
    model = pruned_checkpoint("llama", tmp_path / "model")
    assert packed_directory(model) is None
    pack_directory(model, model / "sparse", values="float32")
    assert packed_directory(model) == model / "sparse"
    assert packed_directory(model / "sparse") == model / "sparse"
    unpack_directory(model, tmp_path / "again")
    assert filecmp.cmp(tmp_path / "again" / "model.safetensors", model / "model.safetensors", shallow=False)


def test_what_would_not_become_smaller_is_refused(tmp_path: Path) -> None:
    dense = tiny_checkpoint("llama", tmp_path / "model")
    with pytest.raises(
        SparseError, match=r"0 matrices become smaller, and the weights take [\d,]+ bytes, not less"
    ):
        pack_directory(dense, dense / "sparse", values="float32")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]
    assert not (dense / "sparse").exists()


def test_directories_that_are_no_checkpoint_are_refused(sharded: Path, tmp_path: Path) -> None:
    with pytest.raises(SparseError, match=r"neither model\.safetensors nor"):
        pack_directory(tmp_path, tmp_path / "out", values="bf16")
    save_file({"w": torch.ones(1)}, tmp_path / "model.safetensors")
    with pytest.raises(SparseError, match=r"has no config\.json"):
        pack_directory(tmp_path, tmp_path / "out", values="bf16")
    with pytest.raises(SparseError, match="exists; name a directory"):
        pack_directory(sharded, tmp_path, values="bf16")
    with pytest.raises(SparseError, match="has no packed weights, nor has"):
        unpack_directory(sharded, tmp_path / "out")
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / INDEX).write_text('{"weight_map": {"w": "../elsewhere.safetensors"}}')
    with pytest.raises(SparseError, match="which is not in this directory"):
        weight_files(tmp_path)
    (tmp_path / INDEX).write_text("[]")
    with pytest.raises(SparseError, match="has no field weight_map"):
        weight_files(tmp_path)
