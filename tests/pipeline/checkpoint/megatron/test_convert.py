"""What conversion reads, leaves alone, refuses, and how it says so; without megatron-core."""

import json
import os
import pickle
import re
import shutil
import stat
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.checkpoint.megatron import torch_dist
from pipeline.checkpoint.megatron.args import args_of
from pipeline.checkpoint.megatron.config import config_of
from pipeline.checkpoint.megatron.convert import convert, open_weights
from pipeline.checkpoint.megatron.mapping import INNER, MODEL_TYPES, ROWS, join, merged, part, share
from pipeline.errors import (
    IncompleteCheckpoint,
    InvalidSpec,
    SecateurError,
    SourceNotFound,
    UnsupportedCheckpoint,
    UnsupportedModel,
)
from pipeline.structure.sizes import Sizes
from tests.models import tiny_tokenizer
from tests.pipeline.checkpoint.megatron.made import MODELS, checkpoint, loaded, share_by_loops, tensors

SETTINGS = Path("release/mp_rank_00/model_optim_rng.pt")


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint("llama-tied", tmp_path_factory.mktemp("dense") / "model")


@pytest.fixture
def ranks(dense: Path, tmp_path: Path) -> Path:
    """The model shared by two ranks."""
    return convert(dense, tmp_path / "ranks", to="mp_rank", tensor_parallel=2, implementation="local")


@pytest.mark.parametrize("size", [1, 2, 4])
def test_what_a_rank_has(size: int, dense: Path, tmp_path: Path) -> None:
    out = convert(dense, tmp_path / "out", to="mp_rank", tensor_parallel=size, implementation="local")
    stored, config = tensors(dense), loaded(dense).config
    for rank in range(size):
        model = settings(out / f"release/mp_rank_{rank:02d}/model_optim_rng.pt")["model"]
        wanted = share_by_loops(stored, config, rank=rank, ranks=size)
        assert model.keys() == wanted.keys()
        assert all(torch.equal(model[name], tensor) for name, tensor in wanted.items())


def test_transformer_engine_names_norms_as_torch_dist_does(dense: Path, tmp_path: Path) -> None:
    out = convert(dense, tmp_path / "out", to="mp_rank")
    stored = settings(out / SETTINGS)
    assert stored["args"].transformer_impl == "transformer_engine"
    there = {name.partition("layers.")[2] or name for name in stored["model"]}
    piled = convert(dense, tmp_path / "piled", to="torch_dist")
    metadata = torch_dist.load_metadata(piled / "release" / ".metadata").state_dict_metadata
    inner = {name.removeprefix("decoder.layers.") for name in metadata if "_extra_state" not in name}
    assert {re.sub(r"^\d+\.", "", name) for name in there} == inner


@pytest.mark.parametrize("name", MODELS)
def test_args_say_what_config_does(name: str, tmp_path: Path) -> None:
    config = json.loads((checkpoint(name, tmp_path) / "config.json").read_text())
    args = args_of(config)
    window = args["window_size"]
    said = Namespace(**{**args, "window_size": tuple(window) if isinstance(window, list) else None})
    assert args_of(config_of(said, dtype="float32")) == args


def test_any_sizes_are_shared_and_put_together() -> None:
    sizes = Sizes(
        hidden_size=6,
        num_hidden_layers=1,
        num_attention_heads=12,
        num_key_value_heads=4,
        head_dim=3,
        vocab_size=8,
        intermediate_size=8,
    )
    qkv = next(row for row in INNER if row.by_group)
    fc1 = next(row for row in INNER if row.name == "mlp.linear_fc1.weight")
    query, key, value = torch.randn(36, 6), torch.randn(12, 6), torch.randn(12, 6)
    whole = join(qkv, [query, key, value], sizes)
    assert [torch.equal(part(qkv, whole, i, sizes), one) for i, one in enumerate((query, key, value))]
    groups = [
        torch.cat([query[9 * g : 9 * g + 9], key[3 * g : 3 * g + 3], value[3 * g : 3 * g + 3]])
        for g in range(4)
    ]
    assert torch.equal(whole, torch.cat(groups))
    assert torch.equal(share(qkv, whole, rank=1, ranks=2), torch.cat(groups[2:]))
    both = torch.arange(16.0)[:, None]
    assert share(fc1, both, rank=1, ranks=4).flatten().tolist() == [2, 3, 10, 11]
    for row, tensor in ((qkv, whole), (fc1, both)):
        assert torch.equal(merged(row, [share(row, tensor, rank=r, ranks=4) for r in range(4)]), tensor)


def test_pipeline_stages_count_their_blocks_from_nought(dense: Path, ranks: Path, tmp_path: Path) -> None:
    for rank in range(2):
        whole = settings(ranks / f"release/mp_rank_{rank:02d}/model_optim_rng.pt")
        model: dict[str, Tensor] = whole["model"]
        first = {k: v for k, v in model.items() if ".layers.1." not in k and "final" not in k}
        second = {k.replace(".1.", ".0."): v for k, v in model.items() if ".layers.1." in k or "final" in k}
        second["output_layer.weight"] = model["embedding.word_embeddings.weight"]  # tied: a copy
        for stage, one in enumerate((first, second)):
            folder = tmp_path / "stages" / f"mp_rank_{rank:02d}_{stage:03d}"
            folder.mkdir(parents=True)
            torch.save({**whole, "model": one}, folder / "model_optim_rng.pt")
    out = convert(tmp_path / "stages", tmp_path / "out", to="hf")
    assert_same(out, dense)


def test_one_block_is_read_of_a_stack(dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = convert(dense, tmp_path / "out", to="torch_dist")
    read: list[tuple[int, ...]] = []

    def counted(*args: Any, **rest: Any) -> Tensor:
        tensor = torch_dist_load(*args, **rest)
        read.append(tuple(tensor.shape))
        return tensor

    torch_dist_load = torch_dist.load_tensor
    monkeypatch.setattr(torch_dist, "load_tensor", counted)
    weights = open_weights(out)
    assert read == []
    for name in "qkv":
        weights.tensor(f"model.layers.1.self_attn.{name}_proj.weight")
    assert read == [(1, (8 + 2 * 4) * 8, 64)]  # once, and of one block


def test_types_stay_and_everything_beside_goes_along(tmp_path: Path) -> None:
    directory = checkpoint("qwen2", tmp_path / "model")
    loaded(directory).to(torch.bfloat16).save_pretrained(directory)
    tiny_tokenizer("qwen2").save_pretrained(tmp_path / "tokenizer")
    out = convert(directory, tmp_path / "a", to="torch_dist", tokenizer=tmp_path / "tokenizer")
    assert settings(out / "release" / "common.pt")["args"].bf16
    assert (out / "latest_checkpointed_iteration.txt").read_text() == "release"
    back = convert(out, tmp_path / "b", to="hf")
    assert_same(back, directory)
    assert (back / "tokenizer.json").read_bytes() == (tmp_path / "tokenizer" / "tokenizer.json").read_bytes()
    assert json.loads((back / "config.json").read_text())["eos_token_id"] == 1  # no part of the args
    modes = {stat.S_IMODE(path.stat().st_mode) for path in out.rglob("*") if path.is_dir()}
    assert modes == {0o755}
    assert {stat.S_IMODE(path.stat().st_mode) for path in out.rglob("*") if path.is_file()} == {0o644}


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


def test_args_do_for_a_config(ranks: Path, dense: Path, tmp_path: Path) -> None:
    (ranks / "config.json").unlink()
    assert_same(convert(ranks, tmp_path / "out", to="hf"), dense)
    change_args(ranks, vocab_size=None, norm_epsilon=None)
    with pytest.raises(UnsupportedCheckpoint, match=r"lack norm_epsilon, vocab_size; name .* with --config"):
        open_weights(ranks)
    assert_same(convert(ranks, tmp_path / "named", to="hf", config=dense), dense)


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


def test_the_page_names_every_row_and_type() -> None:
    page = (Path(__file__).parents[4] / "docs" / "megatron.md").read_text(encoding="utf-8")
    for row in ROWS.values():
        assert f"`{row.name}`" in page or f"`{row.module}`" in page, row.name
        assert row.local is None or f"`{row.local}`" in page
    *most, last = MODEL_TYPES
    assert f"The types are {', '.join(most)} and {last}." in page


def settings(path: Path) -> dict[str, Any]:
    """A file of torch.save that names nothing but Namespace."""
    with torch.serialization.safe_globals([Namespace]):
        loaded: dict[str, Any] = torch.load(path, weights_only=True)
        return loaded


def change_args(directory: Path, **changes: object) -> None:
    """Other args in the files of every rank."""
    for path in directory.glob("release/*/*.pt"):
        stored = settings(path)
        vars(stored["args"]).update(changes)
        torch.save(stored, path)


def refused(directory: Path, kind: type[SecateurError], said: str) -> None:
    with pytest.raises(kind, match=said):
        open_weights(directory)


def assert_same(found: Path, wanted: Path) -> None:
    """Every tensor to the bit, and no other."""
    one, other = tensors(found), tensors(wanted)
    assert one.keys() == other.keys()
    for name, tensor in other.items():
        assert one[name].dtype == tensor.dtype
        assert torch.equal(one[name], tensor), name
