"""Experts: found by what a block stores, measured by their own tokens, else by weights where they are few."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.allocations import Owl, Uniform
from pipeline.architecture.rows import row_for
from pipeline.blocks.routing import MINIMUM_TOKENS
from pipeline.blocks.worker import SweepWorker
from pipeline.checkpoint.experts import fused
from pipeline.errors import UnsupportedCheckpoint
from pipeline.methods.magnitude import Magnitude
from pipeline.methods.sparsegpt import SparseGPT
from pipeline.methods.wanda import Wanda
from pipeline.spec.patterns import Unstructured
from pipeline.tensor.statistics import merge
from tests.checkpoints import imported
from tests.model_configs import MIXTURES, Kind
from tests.models import tiny_checkpoint
from tests.sweeping import prune_in_process

HALF = Unstructured(sparsity=0.5, comparison_group="row")
NEEDS = frozenset({"input_norm", "input_mean", "hessian"})
mixtures = pytest.mark.parametrize("kind", MIXTURES)


pytestmark = pytest.mark.usefixtures("one_thread", "no_gradients")


def constants() -> list[Tensor]:
    """Three sequences of one token each, over and over: all places of one are alike, so block 0 sends 24
    tokens to the same two experts. Some expert gets 24 of all 144 or less, some 48 or more."""
    return [torch.full((24,), token) for token in (40, 41, 42)]


@mixtures
def test_what_a_block_stores_decides_what_is_pruned(kind: Kind) -> None:
    row = row_for(kind)
    assert row.experts is not None
    dense = [f"{name}.weight" for name in row.linear_names if "shared" not in name]
    assert row.groups_in(dense) == tuple(group for group in row.linears if "shared" not in group[0])
    names = [f"{linear}.weight" for e in range(3) for linear in row.experts.entering(e)]
    names += [f"{linear}.weight" for e in range(3) for linear in row.experts.leaving(e)]
    assert row.experts.count(names) == 3
    routers = ["mlp.gate.weight", "block_sparse_moe.gate.weight", "mlp.shared_expert_gate.weight"]
    groups = row.groups_in([*names, *routers])
    assert [f"{linear}.weight" for group in groups for linear in group if len(group) == 2] == names[:6]
    assert [f"{linear}.weight" for group in groups for linear in group if len(group) == 1] == names[6:]


@mixtures
def test_fusing_reaches_every_matrix_with_gradients(kind: Kind) -> None:
    experts = row_for(kind).experts
    assert experts is not None
    matrices = {
        **{f"{n}.weight": torch.randn(6, 4) for e in range(3) for n in experts.entering(e)},
        **{f"{n}.weight": torch.randn(4, 6) for e in range(3) for n in experts.leaving(e)},
    }
    with torch.enable_grad():
        asked = {name: matrix.requires_grad_() for name, matrix in matrices.items()}
        made = fused(experts, {**asked, "norm.weight": torch.ones(4)})
        assert made.keys() == {"mlp.experts.gate_up_proj", "mlp.experts.down_proj", "norm.weight"}
        sum(tensor.sum() for tensor in made.values()).backward()
    gate, up = (matrices[f"{name}.weight"] for name in experts.entering(1))
    assert torch.equal(made["mlp.experts.gate_up_proj"][1], torch.cat([gate, up]))
    assert torch.equal(made["mlp.experts.down_proj"][2], matrices[f"{experts.leaving(2)[0]}.weight"])
    assert all(torch.equal(matrix.grad, torch.ones_like(matrix)) for matrix in matrices.values())
    assert fused(None, made).keys() == made.keys()


@mixtures
def test_shapes_follow_no_routing_and_no_token_gives_zeros(kind: Kind, tmp_path: Path) -> None:
    content, checkpoint = imported(tiny_checkpoint(kind, tmp_path / "model"), tmp_path / "store")
    sequence = torch.tensor([7])  # one token, so two of the four experts see nothing
    worker = SweepWorker(content, checkpoint, [sequence], dtype=torch.float32, device=torch.device("cpu"))
    worker.start()
    worker.load(0)
    measured = worker.measure(advance=False, needs=NEEDS)
    shares = dict(zip(worker.linear_groups(), measured.values(), strict=True))
    experts = row_for(kind).experts
    assert experts is not None
    tokens = [merge([shares[experts.entering(e)]]).tokens for e in range(4)]
    assert sorted(tokens) == [0, 0, 1, 1]
    empty = tokens.index(0)
    for group in (experts.entering(empty), experts.leaving(empty)):
        share = shares[group]
        assert share.squares_SI.shape[0] == 1
        assert not share.squares_SI.any()
        one = merge([share])
        assert one.input_mean_I is not None
        assert one.input_variance_I is not None
        for statistic_I in (one.input_norm_I, one.input_mean_I, one.input_variance_I):
            assert not statistic_I.any()


@mixtures
@pytest.mark.parametrize("method", [Wanda(), SparseGPT()])
def test_an_expert_with_too_few_tokens_is_decided_by_its_weights(
    kind: Kind, method: Wanda | SparseGPT, tmp_path: Path
) -> None:
    content, checkpoint = imported(tiny_checkpoint(kind, tmp_path / "model"), tmp_path / "store")
    runs = [
        prune_in_process(
            content, checkpoint, constants(), method=one, allocation=Uniform(), pattern=HALF, workers=workers
        )
        for one, workers in ((method, 1), (method, 3), (Magnitude(), 1))
    ]
    got, again, plain = runs
    assert got.blocks == again.blocks
    experts = row_for(kind).experts
    assert experts is not None
    prefix = f"model.layers.0.{experts.stored}."
    seen = got.blocks[0].expert_tokens
    assert len(seen) == 4
    assert min(seen) < MINIMUM_TOKENS <= max(seen)
    for expert, tokens in enumerate(seen):
        names = [name for name in got.keep if name.startswith(f"{prefix}{expert}.")]
        assert len(names) == 3
        same = [torch.equal(got.keep[name], plain.keep[name]) for name in names]
        assert all(same) if tokens < MINIMUM_TOKENS else not any(same)
        if tokens < MINIMUM_TOKENS:  # what is kept keeps its value
            assert all(torch.equal(got.weights[name], plain.weights[name]) for name in names)


def test_outliers_are_counted_without_neglected_experts(tmp_path: Path) -> None:
    content, checkpoint = imported(tiny_checkpoint("mixtral", tmp_path / "model"), tmp_path / "store")
    pruned = prune_in_process(
        content,
        checkpoint,
        constants(),
        method=Wanda(),
        allocation=Owl(multiplier=3, spread=0.1),
        pattern=Unstructured(sparsity=0.5),
    )
    assert all(0 < ratio < 100 for ratio in pruned.measured)
    assert pruned.blocks[0].expert_tokens


@mixtures
def test_a_missing_expert_is_named(kind: Kind, tmp_path: Path) -> None:
    directory = tiny_checkpoint(kind, tmp_path / "model")
    tensors = load_file(directory / "model.safetensors")
    experts = row_for(kind).experts
    assert experts is not None
    name = f"model.layers.1.{experts.leaving(2)[0]}.weight"
    del tensors[name]
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    with pytest.raises(UnsupportedCheckpoint, match=rf"1 tensors are missing \({re.escape(name)}\)"):
        imported(directory, tmp_path / "store")
