"""Against the real megatron-core on CPUs, with one and two tensor-parallel ranks: what it computes of our
checkpoints, and what we make of its own.
"""

import json
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from pipeline.checkpoint.export import export_checkpoint
from pipeline.checkpoint.megatron.convert import convert
from pipeline.checkpoint.reader import CheckpointReader
from pipeline.checkpoint.slicing import slice_checkpoint
from pipeline.spec.patterns import NM
from pipeline.structure.cut import BlockCut, Cut
from pipeline.tensor.masks import keep_by_saliency, zeroed
from tests.checkpoints import imported
from tests.pipeline.checkpoint.megatron.made import (
    MODELS,
    checkpoint,
    loaded,
    logits,
    share_by_loops,
    tensors,
)
from tests.pipeline.checkpoint.megatron.ranks import SIZES, Ranks, started

TOKENS = torch.randint(0, 300, (2, 40), generator=torch.Generator().manual_seed(0))  # B, L
TOLERANCE = 1e-4
LAYOUTS = ("torch_dist", "mp_rank")

# What Megatron-LM's args say of a model; the vocabulary is padded for two ranks.
ARGS: dict[str, Any] = {
    "num_layers": 2,
    "hidden_size": 64,
    "num_attention_heads": 8,
    "group_query_attention": True,
    "num_query_groups": 4,
    "kv_channels": 8,
    "ffn_hidden_size": 96,
    "norm_epsilon": 1e-6,
    "max_position_embeddings": 128,
    "rotary_base": 5000,
    "rotary_percent": 1.0,
    "use_rope_scaling": False,
    "rope_scaling_factor": 8.0,
    "position_embedding_type": "rope",
    "normalization": "RMSNorm",
    "swiglu": True,
    "add_bias_linear": False,
    "add_qkv_bias": False,
    "qk_layernorm": False,
    "window_size": None,
    "window_attn_skip_freq": None,
    "untie_embeddings_and_output_weights": True,
    "vocab_size": 380,
    "padded_vocab_size": 512,
}
SAVED: dict[str, tuple[str, dict[str, Any]]] = {
    "untied": ("llama", {}),
    "tied": ("llama", {"untie_embeddings_and_output_weights": False}),
    "ungrouped": ("llama", {"group_query_attention": False, "num_query_groups": 8}),
    "biases": ("llama", {"add_bias_linear": True, "add_qkv_bias": True}),
    "query biases": ("qwen2", {"add_qkv_bias": True}),
    "head norms": ("qwen3", {"qk_layernorm": True, "kv_channels": 16}),
    "window": ("mistral", {"window_size": (7, 0)}),
    "every other window": (
        "qwen2",
        {"add_qkv_bias": True, "window_size": (7, 0), "window_attn_skip_freq": 2},
    ),
}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    """Two processes with megatron-core."""
    with started(tmp_path_factory.mktemp("ranks")) as both:
        yield both


@pytest.mark.parametrize("name", MODELS)
def test_megatron_computes_what_transformers_does(name: str, ranks: Ranks, tmp_path: Path) -> None:
    dense = checkpoint(name, tmp_path / "dense")
    assert_same_logits(ranks, dense, tmp_path)


def test_rotary_scaling_is_no_empty_word(tmp_path: Path) -> None:
    scaled = logits(checkpoint("llama-scaled", tmp_path / "scaled"), TOKENS)
    plain = logits(checkpoint("llama", tmp_path / "plain"), TOKENS)
    assert float((scaled - plain).abs().max()) > 10 * TOLERANCE


@pytest.mark.parametrize("name", SAVED)
def test_transformers_computes_what_megatron_does(name: str, ranks: Ranks, tmp_path: Path) -> None:
    model_type, changes = SAVED[name]
    for layout in LAYOUTS:
        for size in SIZES:
            saved, made = tmp_path / f"{layout}-{size}", tmp_path / f"{layout}-{size}-hf"
            expected = saved_by_megatron(ranks, saved, layout=layout, size=size, **changes)
            convert(saved, made, to="hf")
            assert loaded(made).config.model_type == model_type
            assert_close(logits(made, TOKENS), expected)


def test_keys_by_block_and_halves_are_read(ranks: Ranks, tmp_path: Path) -> None:
    saved, sharding = tmp_path / "saved", {"singleton_local_shards": True}
    expected = saved_by_megatron(ranks, saved, layout="torch_dist", size=2, sharding=sharding)
    convert(tmp_path / "saved", tmp_path / "hf", to="hf")
    assert_close(logits(tmp_path / "hf", TOKENS), expected)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
def test_the_tensor_parallel_size_changes(
    layout: str, before: int, after: int, ranks: Ranks, tmp_path: Path
) -> None:
    expected = saved_by_megatron(ranks, tmp_path / "saved", layout=layout, size=before)
    for to in LAYOUTS:
        out = convert(tmp_path / "saved", tmp_path / to, to=to, tensor_parallel=after, implementation="local")
        assert_close(megatron_logits(ranks, out, layout=to, size=after), expected)


def test_masked_weights_are_zero_where_they_were(ranks: Ranks, tmp_path: Path) -> None:
    """2:4 on a checkpoint that Megatron saved with two ranks, and back."""
    saved_by_megatron(ranks, tmp_path / "saved", layout="mp_rank", size=2)
    dense = convert(tmp_path / "saved", tmp_path / "dense", to="hf")
    pruned = tmp_path / "pruned"
    pruned.mkdir()
    stored = tensors(dense)
    for name, weight in stored.items():
        if name.endswith("_proj.weight"):
            keep = keep_by_saliency(weight.abs(), NM(keep=2, group=4), default_group="output_row")
            stored[name] = zeroed(weight, keep)
            assert int((stored[name] == 0).sum()) == weight.numel() // 2
    save_file(stored, pruned / "model.safetensors", metadata={"format": "pt"})
    (pruned / "config.json").write_bytes((dense / "config.json").read_bytes())

    assert_same_logits(ranks, pruned, tmp_path)
    out = convert(pruned, tmp_path / "again", to="mp_rank", tensor_parallel=2, implementation="local")
    config = loaded(pruned).config
    for rank in range(2):
        path = out / "release" / f"mp_rank_{rank:02d}" / "model_optim_rng.pt"
        with torch.serialization.safe_globals([Namespace]):
            found = torch.load(path, weights_only=True)["model"]
        wanted = share_by_loops(stored, config, rank=rank, ranks=2)
        assert found.keys() == wanted.keys()
        for name, tensor in wanted.items():
            assert torch.equal(found[name], tensor), name
            if ".linear_" in name:
                assert bool((found[name].unflatten(1, (-1, 4)).eq(0).sum(-1) == 2).all()), name


def test_a_cut_model_computes_the_same_in_megatron(ranks: Ranks, tmp_path: Path) -> None:
    """In hidden size, heads, FFN, blocks and vocabulary; the checkpoint came from Megatron."""
    saved_by_megatron(ranks, tmp_path / "saved", layout="torch_dist", size=2, num_layers=3)
    dense = convert(tmp_path / "saved", tmp_path / "dense", to="hf")
    content, ref = imported(dense, tmp_path / "store")
    blocks = tuple(
        BlockCut(
            block=block,
            heads=(first, first + 1, 4, 5),
            key_value_heads=(first // 2, 2),
            ffn=tuple(range(block, 66 + block)),
        )
        for block, first in ((0, 0), (2, 2))
    )
    cut = Cut(blocks=blocks, hidden=tuple(range(0, 64, 2)), vocabulary=tuple(range(333)))
    *_, smaller = slice_checkpoint(content, CheckpointReader(content, ref), cut, like=ref)
    directory = tmp_path / "cut"
    directory.mkdir()
    export_checkpoint(content, smaller, directory)
    config = json.loads((directory / "config.json").read_text())
    assert (config["num_key_value_heads"], config["hidden_size"], config["vocab_size"]) == (2, 32, 333)
    assert_same_logits(ranks, directory, tmp_path)


def saved_by_megatron(
    ranks: Ranks,
    directory: Path,
    *,
    layout: str,
    size: int,
    sharding: dict[str, bool] | None = None,
    **changes: object,
) -> torch.Tensor:
    """Save a random model of ARGS with `changes`; its logits [B, L, vocab_size]."""
    args, seed = {**ARGS, **changes}, 3 + size
    ranks.call(
        "save",
        size=size,
        args=args,
        directory=str(directory),
        seed=seed,
        layout=layout,
        sharding=sharding or {},
    )
    found = ranks.logits("logits", size=size, tokens_BL=TOKENS, args=args, seed=seed)
    return found[..., : args["vocab_size"]]


def assert_same_logits(ranks: Ranks, directory: Path, tmp_path: Path) -> None:
    """Transformers' and Megatron's of the same weights, in both layouts, with one rank and two; what comes
    back is the same to the bit."""
    expected, stored = logits(directory, TOKENS), tensors(directory)
    for layout in LAYOUTS:
        for size in SIZES:
            out = tmp_path / f"to-{layout}-{size}"
            convert(directory, out, to=layout, tensor_parallel=size, implementation="local")
            assert_close(megatron_logits(ranks, out, layout=layout, size=size), expected)
            back = tensors(convert(out, tmp_path / f"from-{layout}-{size}", to="hf"))
            assert back.keys() == stored.keys()
            assert all(torch.equal(back[name], tensor) for name, tensor in stored.items())


def megatron_logits(ranks: Ranks, out: Path, *, layout: str, size: int) -> torch.Tensor:
    """Logits [B, L, vocab_size] of the real model."""
    found = ranks.logits("load", size=size, tokens_BL=TOKENS, directory=str(out / "release"), layout=layout)
    vocabulary = json.loads((out / "config.json").read_text())["vocab_size"]
    assert found.shape[-1] % (128 * size) == 0
    assert float(found[..., vocabulary:].abs().sum()) == 0  # padding is zero
    return found[..., :vocabulary]


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Within 1e-4, of logits that differ by more than that."""
    assert found.shape == expected.shape
    assert float(expected.std()) > 0.1
    assert float((found - expected).abs().max()) < TOLERANCE
