"""Experts that are merged, against means by hand, in checkpoints that stock transformers loads."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from pipeline.architecture.rows import row_for
from pipeline.artifacts.refs import CheckpointRef
from pipeline.checkpoint.merging import merged_experts
from pipeline.checkpoint.reader import CheckpointReader
from pipeline.checkpoint.slicing import full_config, slice_checkpoint
from pipeline.storage import ContentStore
from pipeline.structure.cut import BlockCut, Cut
from pipeline.structure.sizes import sizes_of
from pipeline.tensor.alignment import alignment
from tests.checkpoints import imported
from tests.exported import export
from tests.model_configs import MIXTURES, Kind
from tests.models import tiny_checkpoint
from tests.pipeline.checkpoint.test_slicing import TOKENS, loaded
from tests.shrunk import as_if_cut

pytestmark = pytest.mark.usefixtures("one_thread", "no_gradients")


def made(content: ContentStore, ref: CheckpointRef, cut: Cut) -> CheckpointRef:
    *_, smaller = slice_checkpoint(content, CheckpointReader(content, ref), cut, like=ref)
    assert isinstance(smaller, CheckpointRef)
    return smaller


def test_channels_find_their_own_again() -> None:
    generator = torch.Generator().manual_seed(0)
    reference_FN = torch.randn(12, 9, generator=generator)
    order = torch.randperm(12, generator=generator)
    assert torch.equal(reference_FN[order][alignment(reference_FN, reference_FN[order])], reference_FN)


@pytest.mark.parametrize("kind", MIXTURES)
def test_a_mean_of_experts_whose_channels_were_shuffled_is_the_expert(kind: Kind, tmp_path: Path) -> None:
    """Experts 0 and 3 of block 1 become equal but for the order of their channels. Dropping 3 and merging it
    into 0 are then the same model; the router that lacks 3's row is that of the dense model without it."""
    directory = tiny_checkpoint(kind, tmp_path / "model")
    experts = row_for(kind).experts
    assert experts is not None
    path = directory / "model.safetensors"
    tensors = load_file(path)
    order = torch.randperm(32, generator=torch.Generator().manual_seed(1))
    for linear, other in zip(experts.entering(0), experts.entering(3), strict=True):
        tensors[f"model.layers.1.{other}.weight"] = tensors[f"model.layers.1.{linear}.weight"][order]
    (down,), (other_down,) = experts.leaving(0), experts.leaving(3)
    tensors[f"model.layers.1.{other_down}.weight"] = tensors[f"model.layers.1.{down}.weight"][:, order]
    save_file({name: one.contiguous() for name, one in tensors.items()}, path, {"format": "pt"})
    content, ref = imported(directory, tmp_path / "store")
    stay = (0, 1, 2)
    plain = Cut(blocks=tuple(BlockCut(block=block, experts=stay) for block in range(2)))
    merged = BlockCut(block=1, experts=stay, merged={0: {0: 0.25, 3: 0.75}})
    result = loaded(
        export(content, made(content, ref, Cut(blocks=(plain.blocks[0], merged))), tmp_path / "m")
    )
    sizes = sizes_of(row_for(kind), full_config(CheckpointReader(content, ref).config))
    oracle = as_if_cut(loaded(directory), plain, sizes)
    found, expected = (one(input_ids=TOKENS, use_cache=False).logits for one in (result, oracle))
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_mean_by_hand(dtype: str, tmp_path: Path) -> None:
    """All three of experts 0, 1 and 3 in 1, then fewer hidden and inner channels of the mean."""
    directory = tiny_checkpoint("mixtral", tmp_path / "model", dtype=dtype)
    content, ref = imported(directory, tmp_path / "store")
    weights = {0: 0.2, 1: 0.5, 3: 0.3}
    hidden, inner = tuple(range(0, 64, 2)), tuple(range(3, 27))
    block = BlockCut(block=0, experts=(1, 2), merged={1: weights}, expert_ffn={1: inner, 2: inner})
    whole = BlockCut(block=1, experts=(0, 1), expert_ffn={0: inner, 1: inner})
    stored = export(content, made(content, ref, Cut(blocks=(block, whole), hidden=hidden)), tmp_path / "cut")
    dense = load_file(directory / "model.safetensors")
    got = {name: one for file in stored.glob("*.safetensors") for name, one in load_file(file).items()}
    prefix = "model.layers.0.block_sparse_moe.experts."

    def expert(number: int) -> list[Tensor]:
        gate, down, up = (dense[f"{prefix}{number}.w{i}.weight"].double() for i in (1, 2, 3))
        return [gate, up, down.t()]

    reference = torch.cat(expert(1), dim=1)
    mean = [torch.zeros_like(one) for one in expert(1)]
    for number, weight in weights.items():
        order = alignment(reference, torch.cat(expert(number), dim=1))
        for total, one in zip(mean, expert(number), strict=True):
            total += weight * one[order]
    for name, expected in zip(("w1", "w3", "w2"), mean, strict=True):
        part = expected[list(inner)][:, list(hidden)]
        part = part.t() if name == "w2" else part
        found = got[f"{prefix}0.{name}.weight"]
        assert str(found.dtype) == f"torch.{dtype}"
        torch.testing.assert_close(
            found, part.to(found.dtype), rtol=1e-2 if dtype == "bfloat16" else 1e-5, atol=1e-6
        )
    dense_two = dense[f"{prefix}2.w1.weight"][list(inner)][:, list(hidden)]
    assert torch.equal(got[f"{prefix}1.w1.weight"], dense_two)  # nothing was merged into it
    model = AutoModelForCausalLM.from_pretrained(stored, dtype=torch.float32)
    assert model.config.num_local_experts == 2


def test_biases_are_averaged_in_the_same_order() -> None:
    """The labels tell which biases belong to channels."""
    row = row_for("mixtral")
    assert row.experts is not None
    names = {}
    generator = torch.Generator().manual_seed(2)
    for part, shape in (
        ("w1.weight", (6, 4)),
        ("w3.weight", (6, 4)),
        ("w2.weight", (4, 6)),
        ("w1.bias", (6,)),
    ):
        names[f"{row.experts.stored}.0.{part}"] = torch.randn(shape, generator=generator)
    order = torch.tensor([3, 1, 0, 5, 4, 2])
    for part in ("w1.weight", "w3.weight", "w1.bias"):
        names[f"{row.experts.stored}.1.{part}"] = names[f"{row.experts.stored}.0.{part}"][order]
    names[f"{row.experts.stored}.1.w2.weight"] = names[f"{row.experts.stored}.0.w2.weight"][:, order]
    for name, tensor in merged_experts(row, names, names.__getitem__, {0: {0: 0.5, 1: 0.5}}):
        torch.testing.assert_close(tensor, names[name])
