"""Masks put on dense checkpoints: to the bit, and only on the weights that they were made for."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, load_file
from transformers import AutoModelForCausalLM

from pipeline.allocations import Uniform
from pipeline.architecture.rows import row_for
from pipeline.artifacts.certificate import Certificate
from pipeline.checkpoint.keeps import keep_ref
from pipeline.checkpoint.reader import CheckpointReader
from pipeline.errors import InvalidSpec, UnsupportedCheckpoint
from pipeline.masks.apply import Applied, apply_masks, fit
from pipeline.masks.file import MaskFile, put_masks
from pipeline.methods.magnitude import Magnitude
from pipeline.spec.patterns import NM, Unstructured
from tests.checkpoints import imported
from tests.models import tiny_checkpoint
from tests.pipeline.masks.made_masks import made_masks, rewritten
from tests.sweeping import prune_in_process


def applied(*arguments: Any, **options: Any) -> Applied:
    *_, last = apply_masks(*arguments, **options)
    assert isinstance(last, Applied)
    return last


@pytest.mark.parametrize(
    ("kind", "nm", "options"),
    [
        ("llama", (2, 4), {"max_shard_size": "100KB"}),
        ("gpt2", (2, 4), {"dtype": "bfloat16"}),
        ("opt", None, {"dtype": "float16"}),
        ("mixtral", (2, 4), {}),
    ],
)
def test_applied_masks_are_the_model_with_zeros_put_in_by_hand(
    kind: str, nm: tuple[int, int] | None, options: dict[str, str], tmp_path: Path
) -> None:
    made = made_masks(kind, tmp_path, nm=nm, **options)
    done = applied(made.model, made.file, tmp_path / "out")
    dense, pruned = tensors(made.model), tensors(tmp_path / "out")
    for name, weight in dense.items():
        expected = weight.clone()
        if name in made.keeps:
            keep = made.keeps[name].t() if kind == "gpt2" else made.keeps[name]
            expected[~keep] = 0
        assert bits(pruned[name]).equal(bits(expected)), name
    assert pruned.keys() == dense.keys()
    assert names(tmp_path / "out") == names(made.model) | {"certificate.json"}

    certificate = Certificate.model_validate_json((tmp_path / "out" / "certificate.json").read_bytes())
    assert certificate == done.certificate
    assert certificate.holds
    assert [check.at for check in certificate.checks] == ["mask", "published"]
    assert {one.nm for one in certificate.tensors} == {nm}
    assert done.held == sum(int((~keep).sum()) for keep in made.keeps.values())
    assert (done.unknown, done.others) == (0, ())

    model = AutoModelForCausalLM.from_pretrained(made.model, dtype=torch.float32).eval()
    by_hand = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    tokens = torch.arange(12)[None] + 7
    with torch.no_grad():
        if kind != "mixtral":  # its experts are fused when they are loaded
            for name, parameter in model.named_parameters():
                if name in made.keeps:
                    parameter[~(made.keeps[name].t() if kind == "gpt2" else made.keeps[name])] = 0
            assert model(tokens).logits.equal(by_hand(tokens).logits)


def test_weights_that_masks_were_not_made_for(tmp_path: Path) -> None:
    made = made_masks("llama", tmp_path)
    other = tmp_path / "other"
    made_masks("llama", other, dtype="bfloat16")
    with pytest.raises(InvalidSpec, match=r"down_proj.weight is not the weight .*--other-weights"):
        applied(other / "model", made.file, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    done = applied(other / "model", made.file, tmp_path / "out", other_weights=True)
    assert len(done.others) == len(made.keeps)
    untold = made_masks("llama", tmp_path / "untold", told=False)
    done = applied(made.model, untold.file, tmp_path / "second")
    assert (done.unknown, done.others) == (len(made.keeps), ())


def test_masks_of_another_model_are_refused(tmp_path: Path) -> None:
    made, opt = made_masks("llama", tmp_path), made_masks("opt", tmp_path / "opt")
    with pytest.raises(InvalidSpec, match=r"no mask for model.decoder.layers.0.self_attn.q_proj.weight of"):
        applied(opt.model, made.file, tmp_path / "out")

    def reshape(header: dict[str, Any], table: dict[str, Any], body: bytearray) -> None:
        entry = next(entry for entry in table["tensors"].values() if entry["shape"] == [128, 64])
        entry["shape"] = [64, 128]

    with pytest.raises(InvalidSpec, match=r"mask of \[64, 128\] for .* is \[128, 64\] \(out_features"):
        applied(made.model, rewritten(made.file, reshape), tmp_path / "out")

    def rename(header: dict[str, Any], table: dict[str, Any], body: bytearray) -> None:
        name = "model.layers.0.mlp.up_proj.weight"
        header["lm_head.weight"] = header.pop(name)
        table["tensors"]["lm_head.weight"] = table["tensors"].pop(name)

    with pytest.raises(InvalidSpec, match=r"no mask for model.layers.0.mlp.up_proj.weight"):
        applied(made.model, rewritten(made.file, rename), tmp_path / "out")
    shutil.copytree(made.model, tmp_path / "exists")
    with pytest.raises(InvalidSpec, match="exists; name a directory that is to be made"):
        applied(made.model, made_masks("llama", tmp_path / "again").file, tmp_path / "exists")


def test_a_dense_checkpoint_that_is_cut_is_refused(tmp_path: Path) -> None:
    made = made_masks("llama", tmp_path)
    weights = made.model / "model.safetensors"
    whole = weights.read_bytes()
    broken = [
        (whole[:-1], "it ends inside of tensor"),
        (whole[:100], "header is cut"),
        (whole[::-1], "a header of"),
    ]
    for data, said in broken:
        weights.write_bytes(data)
        with pytest.raises(UnsupportedCheckpoint, match=f"model.safetensors is no complete .*{said}"):
            applied(made.model, made.file, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_blocks_of_masks_of_one_kind_are_certified_as_that(tmp_path: Path) -> None:
    made = made_masks("llama", tmp_path)
    reader = CheckpointReader(made.content, made.checkpoint)
    shapes = {name: entry.shape for name, entry in reader.index.tensors.items()}
    mixed = [*made.patterns[:-1], Unstructured(sparsity=0.5)]
    stored = put_masks(made.content, made.checkpoint, made.keep, patterns=mixed)
    made.file.write_bytes(made.content.get_bytes(stored.blob))
    fitted = fit(MaskFile(made.file), row_for("llama"), shapes, of="it")
    assert fitted.patterns == (*made.patterns[:-1], Unstructured(sparsity=0))


def tensors(directory: Path) -> dict[str, torch.Tensor]:
    return {name: one for path in directory.glob("*.safetensors") for name, one in load_file(path).items()}


def bits(weight: torch.Tensor) -> torch.Tensor:
    return weight.contiguous().view({2: torch.int16, 4: torch.int32}[weight.element_size()])


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


@torch.no_grad()
def test_a_pruned_checkpoint_is_made_again_of_its_masks(tmp_path: Path) -> None:
    model = tiny_checkpoint("gpt2", tmp_path / "model", dtype="bfloat16")
    content, dense = imported(model, tmp_path / "store")
    pattern = NM(keep=2, group=4)
    swept = prune_in_process(content, dense, [], method=Magnitude(), allocation=Uniform(), pattern=pattern)
    linears = [linear for block in swept.blocks for linear in block.linears]
    keep = keep_ref(content, [block.keep for block in swept.blocks], linears)
    stored = put_masks(content, dense, keep, patterns=swept.plan.blocks, dense=dense)
    (tmp_path / "masks.safetensors").write_bytes(content.get_bytes(stored.blob))
    applied(model, tmp_path / "masks.safetensors", tmp_path / "out")
    pruned = tensors(tmp_path / "out")
    for block in swept.blocks:
        for name, weight in load(content.get_bytes(block.weights.file.blob)).items():
            assert bits(pruned[name]).equal(bits(weight)), name
