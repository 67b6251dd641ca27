"""What conversion refuses, and how it says so: foreign pickles, contradictions, sizes, broken files."""

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.checkpoint.megatron.convert import convert, open_weights
from pipeline.errors import (
    IncompleteCheckpoint,
    InvalidSpec,
    SecateurError,
    SourceNotFound,
    UnsupportedCheckpoint,
    UnsupportedModel,
)
from tests.pipeline.checkpoint.megatron.files import assert_same, change_args, settings
from tests.pipeline.checkpoint.megatron.made import checkpoint


def test_pickles_run_nothing(ranks: Path, dense: Path, tmp_path: Path) -> None:
    """What a file names is a stand-in: it is neither imported nor called."""

    kept = tmp_path / "kept"
    kept.mkdir()

    class Trap:
        def __init__(self, function: Callable[[str], object]) -> None:
            self.function = function

        def __reduce__(self) -> tuple[object, tuple[str]]:
            return self.function, (str(kept),)

    plain = {path: settings(path) for path in ranks.glob("release/*/*.pt")}
    for path, stored in plain.items():
        torch.save({**stored, "rng_state": [Trap(shutil.rmtree)]}, path)
    assert_same(convert(ranks, tmp_path / "out", to="hf"), dense)
    for path, stored in plain.items():
        torch.save({**stored, "rng_state": [Trap(os.rmdir)]}, path)
    refused(ranks, UnsupportedCheckpoint, r"GLOBAL posix\.rmdir")  # torch refuses some names outright
    piled = convert(dense, tmp_path / "piled", to="torch_dist")
    (piled / "release" / ".metadata").write_bytes(pickle.dumps(Trap(os.rmdir)))
    with pytest.raises(UnsupportedCheckpoint, match="no metadata"):
        open_weights(piled)
    assert kept.exists()


REFUSED_ARGS = [
    ({"rotary_base": 777}, "rotary_base=777, its config.json means 10000.0"),
    ({"hidden_size": 65}, "hidden_size=65"),
    ({"rotary_interleaved": True}, "rotary_interleaved=True"),
    ({"tensor_model_parallel_size": 4}, "2 tensor-parallel ranks, its args say tensor_model_parallel_size=4"),
]


@pytest.mark.parametrize(("changes", "said"), REFUSED_ARGS)
def test_args_that_contradict_are_named(changes: dict[str, object], said: str, ranks: Path) -> None:
    change_args(ranks, **changes)
    with pytest.raises(UnsupportedCheckpoint, match=said):
        open_weights(ranks)


REFUSED_MODELS = [
    ("gemma2", {}, "'gemma2' has no Megatron layout here; known types: llama, mistral, qwen2, qwen3"),
    ("llama", {"hidden_act": "gelu"}, "hidden_act='gelu'; allowed: 'silu'"),
    ("qwen3", {"attention_bias": True}, "attention_bias=True"),
    (
        "llama",
        {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}},
        "rope_type='linear'; allowed: 'default', 'llama3'",
    ),
]


@pytest.mark.parametrize(("kind", "changes", "said"), REFUSED_MODELS)
def test_what_megatron_cannot_express_is_refused(
    kind: str, changes: dict[str, object], said: str, tmp_path: Path
) -> None:
    directory = checkpoint(kind, tmp_path / "model", **changes)
    with pytest.raises((UnsupportedModel, UnsupportedCheckpoint), match=said):
        convert(directory, tmp_path / "out", to="torch_dist")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"to": "mp_rank", "tensor_parallel": 3}, "must divide .* valid: 1, 2, 4; nearest: 2 or 4"),
        ({"to": "mp_rank", "tensor_parallel": 8}, "4 key-value groups .* nearest: 4"),
        ({"to": "hf", "tensor_parallel": 2}, "leave it out for hf"),
    ],
)
def test_sizes_that_cannot_be(options: dict[str, Any], said: str, dense: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidSpec, match=said):
        convert(dense, tmp_path / "out", **options)
    assert list(tmp_path.iterdir()) == []


def test_what_is_broken_is_named(dense: Path, ranks: Path, tmp_path: Path) -> None:
    shutil.rmtree(ranks / "release" / "mp_rank_00")
    refused(ranks, IncompleteCheckpoint, "no model_optim_rng.pt for tensor rank 0")
    (ranks / "latest_checkpointed_iteration.txt").write_text("12")
    refused(ranks, UnsupportedCheckpoint, "names '12'")
    refused(tmp_path / "nowhere", SourceNotFound, "does not exist")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", UnsupportedCheckpoint, "no checkpoint of Megatron or Hugging Face")
    piled = convert(dense, tmp_path / "piled", to="torch_dist")
    (piled / "release" / "__0_0.distcp").unlink()
    with pytest.raises(IncompleteCheckpoint, match=r"__0_0\.distcp does not exist"):
        convert(piled, tmp_path / "out", to="hf")
    assert not (tmp_path / "out").exists()
    assert [path for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    with pytest.raises(InvalidSpec, match="exists"):
        convert(dense, piled, to="hf")


def test_a_parameter_too_many_is_named(ranks: Path) -> None:
    for path in ranks.glob("release/*/*.pt"):
        stored = settings(path)
        stored["model"]["decoder.layers.0.mlp.experts.linear_fc1.weight0"] = torch.zeros(2)
        torch.save(stored, path)
    refused(ranks, UnsupportedCheckpoint, r"mapping\.py does not know, the first: .*experts")


def refused(directory: Path, kind: type[SecateurError], said: str) -> None:
    with pytest.raises(kind, match=said):
        open_weights(directory)
