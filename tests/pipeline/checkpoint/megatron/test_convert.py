"""What conversion reads, leaves alone and keeps; without megatron-core."""

import json
import re
import stat
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.checkpoint.megatron import torch_dist
from pipeline.checkpoint.megatron.args import args_of
from pipeline.checkpoint.megatron.config import config_of
from pipeline.checkpoint.megatron.convert import convert, open_weights
from pipeline.checkpoint.megatron.known import MODEL_TYPES
from pipeline.checkpoint.megatron.mapping import INNER, ROWS, join, merged, part, share
from pipeline.errors import UnsupportedCheckpoint
from pipeline.structure.sizes import Sizes
from tests.models import tiny_tokenizer
from tests.pipeline.checkpoint.megatron.files import assert_same, change_args, settings
from tests.pipeline.checkpoint.megatron.made import MODELS, checkpoint, loaded, share_by_loops, tensors

SETTINGS = Path("release/mp_rank_00/model_optim_rng.pt")


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


def test_args_do_for_a_config(ranks: Path, dense: Path, tmp_path: Path) -> None:
    (ranks / "config.json").unlink()
    assert_same(convert(ranks, tmp_path / "out", to="hf"), dense)
    change_args(ranks, vocab_size=None, norm_epsilon=None)
    with pytest.raises(UnsupportedCheckpoint, match=r"lack norm_epsilon, vocab_size; name .* with --config"):
        open_weights(ranks)
    assert_same(convert(ranks, tmp_path / "named", to="hf", config=dense), dense)


def test_the_page_names_every_row_and_type() -> None:
    page = (Path(__file__).parents[4] / "docs" / "megatron.md").read_text(encoding="utf-8")
    for row in ROWS.values():
        assert f"`{row.name}`" in page or f"`{row.module}`" in page, row.name
        assert row.local is None or f"`{row.local}`" in page
    *most, last = MODEL_TYPES
    assert f"The types are {', '.join(most)} and {last}." in page
