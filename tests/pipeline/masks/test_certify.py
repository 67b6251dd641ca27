"""Keep tensors of stored checkpoints are read as they were made, and every pruned weight is looked at."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.allocations import Uniform
from pipeline.artifacts.certificate import Certificate
from pipeline.artifacts.refs import CheckpointRef, KeepRef
from pipeline.artifacts.sparsity import SparsityTable
from pipeline.checkpoint.keeps import KeepReader, keep_ref, load_keep, put_keep
from pipeline.checkpoint.reader import CheckpointReader
from pipeline.errors import ZerosLost
from pipeline.masks.certify import Certified, certify, certify_tensors, read_directory
from pipeline.methods.magnitude import Magnitude
from pipeline.spec.patterns import NM, Pattern, Unstructured
from pipeline.storage import ContentStore
from tests.checkpoints import imported, stored_unseen
from tests.models import Kind, tiny_checkpoint
from tests.sweeping import Pruned, prune_in_process


@dataclass
class Made:
    content: ContentStore
    checkpoint: CheckpointRef
    keep: KeepRef
    pruned: Pruned


def written(directory: Path, pruned: Pruned, content: ContentStore) -> Path:
    """The pruned weights in a directory of their own, beside the dense checkpoint's other files."""
    weights = load_file(directory / "model.safetensors")
    for block in pruned.blocks:
        path = directory / "one.safetensors"
        path.write_bytes(content.get_bytes(block.weights.file.blob))
        weights.update(load_file(path))
        path.unlink()
    save_file(weights, directory / "model.safetensors", {"format": "pt"})
    return directory


def made(kind: Kind, tmp_path: Path, *, nm: bool = False) -> Made:
    directory = tiny_checkpoint(kind, tmp_path / "model")
    content, dense = imported(directory, tmp_path / "store")
    pattern = NM(keep=2, group=4) if nm else Unstructured(sparsity=0.5)
    with torch.no_grad():
        pruned = prune_in_process(
            content, dense, [], method=Magnitude(), allocation=Uniform(), pattern=pattern
        )
    _, checkpoint = imported(written(directory, pruned, content), tmp_path / "store")
    linears = [linear for block in pruned.blocks for linear in block.linears]
    keep = keep_ref(content, [block.keep for block in pruned.blocks], linears)
    return Made(content, checkpoint, keep, pruned)


def published(
    it: Made, weights: dict[str, torch.Tensor] | Path, *, patterns: Sequence[Pattern] | None = None
) -> Certified:
    """What a reader of the published files finds: a directory, or tensors by name."""
    keeps = KeepReader(it.content, it.checkpoint, it.keep)
    tensors = read_directory(weights, keeps.tensors) if isinstance(weights, Path) else weights.items()
    return certify_tensors(tensors, keeps, at="published", patterns=patterns)


@pytest.mark.parametrize(("kind", "nm"), [("llama", True), ("gpt2", True), ("opt", False)])
def test_a_pruned_checkpoint_holds(kind: Kind, nm: bool, tmp_path: Path) -> None:
    it = made(kind, tmp_path, nm=nm)
    patterns = it.pruned.plan.blocks
    tensors, check = certify(it.content, it.checkpoint, it.keep, at="mask", patterns=patterns)
    assert check.tensors == len(tensors) == len(it.pruned.keep)
    assert check.held == check.zeros == sum(int((~keep).sum()) for keep in it.pruned.keep.values())
    assert [one.nm for one in tensors] == [(2, 4) if nm else None] * len(tensors)
    table = SparsityTable.model_validate_json(it.content.get_bytes(it.keep.file("sparsity.json")))
    assert [(t.block, t.linear, t.weights, t.held) for t in tensors] == [
        (row.block, row.linear, row.weights, row.pruned) for row in table.linears
    ]
    assert Certificate(tensors=tensors, checks=(check,)).holds

    keeps = load_keep(it.content, it.checkpoint, it.keep)
    reader = CheckpointReader(it.content, it.checkpoint)
    for name, keep in keeps.items():
        assert torch.equal(keep.t() if kind == "gpt2" else keep, it.pruned.keep[name])
        assert not reader.tensor(name)[~keep].any()
    assert put_keep(it.content, it.checkpoint, keeps) == it.keep  # the prune stage's own layout

    assert published(it, tmp_path / "model", patterns=patterns) == (
        tensors,
        check.model_copy(update={"at": "published"}),
    )


def test_a_checkpoint_of_the_base_model_holds_too(tmp_path: Path) -> None:
    it = made("llama", tmp_path)
    keeps = load_keep(it.content, it.checkpoint, it.keep)
    path = tmp_path / "model" / "model.safetensors"
    weights = load_file(path)
    save_file({name.removeprefix("model."): one for name, one in weights.items()}, path, {"format": "pt"})
    _, base = imported(tmp_path / "model", tmp_path / "store")
    again = put_keep(it.content, base, {name.removeprefix("model."): one for name, one in keeps.items()})
    tensors, _ = certify(it.content, base, again, at="reload", step=3)
    assert tensors[0].tensor == "layers.0.self_attn.q_proj.weight"
    assert len(tensors) == len(keeps)


@pytest.mark.parametrize("value", [1e-20, float("nan")])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_one_weight_that_is_back_is_named(kind: Kind, value: float, tmp_path: Path) -> None:
    it = made(kind, tmp_path)
    keeps = load_keep(it.content, it.checkpoint, it.keep)
    name = list(keeps)[5]
    row, column = (int(i) for i in (~keeps[name]).nonzero()[-1])
    path = tmp_path / "model" / "model.safetensors"
    weights = load_file(path)
    weights[name][row, column] = value
    save_file(weights, path, {"format": "pt"})
    broken = stored_unseen(tmp_path / "model", tmp_path / "store", unread=[name])
    words = rf"{name} \[{row}, {column}\] was pruned and is {value:g}"
    with pytest.raises(ZerosLost, match=words + r" \(save, after step 7\)"):
        certify(it.content, broken, it.keep, at="save", step=7)
    with pytest.raises(ZerosLost, match=words + r" \(published\)"):
        published(it, weights)
    del weights[name]
    with pytest.raises(ZerosLost, match=f"{name} is not there"):
        published(it, weights)


def test_a_group_that_is_not_whole_is_named(tmp_path: Path) -> None:
    it = made("gpt2", tmp_path, nm=True)
    keeps = load_keep(it.content, it.checkpoint, it.keep)
    name = "transformer.h.1.mlp.c_fc.weight"
    keeps[name][:, 3] = False
    path = tmp_path / "model" / "model.safetensors"
    weights = load_file(path)
    weights[name][:, 3] = 0
    save_file(weights, path, {"format": "pt"})
    _, checkpoint = imported(tmp_path / "model", tmp_path / "store")
    keep = put_keep(it.content, checkpoint, keeps)
    certify(it.content, checkpoint, keep, at="reload")  # zeros all hold
    with pytest.raises(
        ZerosLost, match=rf"{name} row 3, inputs 0 to 3 keep 0 weights, NM\(2,4\) keeps 2 of 4"
    ):
        certify(it.content, checkpoint, keep, at="reload", patterns=it.pruned.plan.blocks)
