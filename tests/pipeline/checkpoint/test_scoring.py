"""Scores of a stored model against the whole one in transformers, hooked and looped over."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from pipeline.blocks.local import LocalCrew
from pipeline.checkpoint.reader import CheckpointReader
from pipeline.checkpoint.scoring import StoredModel
from pipeline.structure.criteria import Random
from pipeline.structure.scores import BlockScores
from tests.checkpoints import imported
from tests.model_configs import EVERY
from tests.models import tiny_checkpoint
from tests.sweeping import measured_statistics

NEEDS = frozenset(("channel_score", "similarity"))
SAMPLES = [torch.arange(start, start + 12) for start in (2, 40, 80, 7)]


def stored(tmp_path: Path, kind: str, *, workers: int = 1) -> tuple[StoredModel, Path]:
    directory = tiny_checkpoint(kind, tmp_path / "model")
    content, ref = imported(directory, tmp_path / "store")
    crew = LocalCrew(content, ref, SAMPLES, workers=workers)
    statistics = measured_statistics(crew, needs=NEEDS, samples=len(SAMPLES))
    return StoredModel(content, CheckpointReader(content, ref), statistics), directory


@pytest.mark.parametrize("workers", [1, 3])
def test_activations_are_minitrons(tmp_path: Path, workers: int) -> None:
    model, directory = stored(tmp_path, "llama", workers=workers)
    whole = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    seen: dict[str, list[np.ndarray]] = {}
    entered: list[list[torch.Tensor]] = [[] for _ in range(5)]
    for number, block in enumerate(whole.model.layers):
        for name, linear in (
            ("attention", block.self_attn.q_proj),
            ("heads", block.self_attn.o_proj),
            ("mlp", block.mlp.up_proj),
            ("ffn", block.mlp.down_proj),
        ):
            into = seen.setdefault(f"{number}.{name}", [])
            linear.register_forward_pre_hook(lambda _, args, into=into: into.append(args[0][0].numpy()))
        block.register_forward_pre_hook(lambda _, args, into=entered[number]: into.append(args[0][0]))
    whole.model.norm.register_forward_pre_hook(lambda _, args: entered[4].append(args[0][0]))
    with torch.no_grad():
        for tokens in SAMPLES:
            whole(input_ids=tokens[None], use_cache=False)

    scores = model.activations()
    hidden = []
    for number, block in enumerate(scores.blocks):
        by_head = [x_TI.reshape(len(x_TI), 4, 16) for x_TI in seen[f"{number}.heads"]]
        heads_A = np.mean([np.sqrt((x**2).sum(axis=(0, 2))) for x in by_head], axis=0)
        ffn_F = np.mean([np.linalg.norm(x, axis=0) for x in seen[f"{number}.ffn"]], axis=0)
        assert block.heads_A == pytest.approx(heads_A, rel=1e-5)
        assert block.ffn_F == pytest.approx(ffn_F, rel=1e-5)
        for name in ("attention", "mlp"):
            hidden.append(np.mean([np.linalg.norm(x, axis=0) for x in seen[f"{number}.{name}"]], axis=0))
    assert scores.hidden_H == pytest.approx(np.mean(hidden, axis=0), rel=1e-5)
    influences = [
        1
        - np.mean([torch.cosine_similarity(x, y, dim=-1).mean() for x, y in zip(before, after, strict=True)])
        for before, after in itertools.pairwise(entered)
    ]
    assert model.influences() == pytest.approx(influences, rel=1e-4)


def test_magnitudes_by_hand(tmp_path: Path) -> None:
    model, directory = stored(tmp_path, "llama")
    weights = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float64).state_dict()
    scores = model.magnitudes()
    inside = {name.removeprefix("model.layers.1."): one.square() for name, one in weights.items()}
    ffn_F = (
        inside["mlp.gate_proj.weight"].sum(1)
        + inside["mlp.up_proj.weight"].sum(1)
        + inside["mlp.down_proj.weight"].sum(0)
    )
    assert scores.blocks[1].ffn_F == pytest.approx(ffn_F.sqrt().numpy(), rel=1e-6)
    kv = inside["self_attn.k_proj.weight"].sum(1) + inside["self_attn.v_proj.weight"].sum(1)
    own = inside["self_attn.q_proj.weight"].sum(1) + inside["self_attn.o_proj.weight"].sum(0)
    by_head = own.view(4, 16).sum(1) + kv.view(2, 16).sum(1).repeat_interleave(2) / 2
    assert scores.blocks[1].heads_A == pytest.approx(by_head.sqrt().numpy(), rel=1e-6)
    hidden_H = weights["model.embed_tokens.weight"].square().sum(0) + weights["model.norm.weight"].square()
    for name, one in weights.items():
        if name.startswith("model.layers."):
            square = one.square()
            across = name.endswith(("o_proj.weight", "down_proj.weight"))
            hidden_H += square.sum(1) if across else square.sum(0) if square.dim() == 2 else square
    assert scores.hidden_H == pytest.approx(hidden_H.sqrt().numpy(), rel=1e-6)


@pytest.mark.parametrize("kind", EVERY)
def test_every_type_has_scores_of_its_shapes(tmp_path: Path, kind: str) -> None:
    """All that can be cut has a score by any criterion, and none is left at zero."""
    model, _ = stored(tmp_path, kind)
    like = model.shapes()
    for scores in (model.magnitudes(), model.activations(), Random(kind="random", seed=3).scores(model)):
        assert scores.hidden_H.shape == like.hidden_H.shape
        assert (scores.hidden_H > 0).all()
        for one, empty in zip(scores.blocks, like.blocks, strict=True):
            for name in BlockScores.__dataclass_fields__:
                found, shape = getattr(one, name), getattr(empty, name)
                assert (found is None) == (shape is None)
                if found is not None:
                    assert found.shape == shape.shape
                    assert np.isfinite(found).all()
                    assert "expert" in name or (found > 0).mean() > 0.9  # ReLU leaves some at zero
    assert all(-1e-6 < one < 2 for one in model.influences())
