"""A GGUF file goes into a checkpoint whole, or is refused by the name of what would be lost."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from pipeline.checkpoint.gguf import convert_gguf
from pipeline.checkpoint.gguf_rope import llama3_scaling
from pipeline.errors import UnsupportedCheckpoint
from tests.models import tiny_checkpoint
from tests.pipeline.checkpoint.test_gguf import write_gguf

LLAMA3 = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0}
SCALING = {**LLAMA3, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}
Writer = gguf.GGUFWriter
YARN = gguf.RopeScalingType.YARN


def factors(
    *, theta: float, head_dim: int, factor: float, low: float, high: float, original: int
) -> np.ndarray:
    """The factor of each frequency as converters to GGUF compute it, one by one and in float32."""
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    found = []
    for frequency in 1 / np.float32(theta) ** exponents:
        wavelength = 2 * math.pi / float(frequency)
        share = (original / wavelength - low) / (high - low)
        if wavelength < original / high:
            found.append(1.0)
        elif wavelength > original / low:
            found.append(factor)
        else:
            found.append(1 / ((1 - share) / factor + share))
    return np.array(found, dtype=np.float32)


def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: Callable[[Writer], None]) -> Path:
    """The tiny Llama with rope scaling as GGUF, after `more` has added to the file."""
    directory = tiny_checkpoint("llama", tmp_path / "model")
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "rope_parameters": SCALING}))
    finish = Writer.write_header_to_file

    def with_more(self: Writer) -> None:
        more(self)
        finish(self)

    monkeypatch.setattr(Writer, "write_header_to_file", with_more)
    write_gguf(directory, tmp_path / "tiny.gguf")
    return tmp_path / "tiny.gguf"


def test_rope_freqs_become_rope_scaling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = factors(theta=500000.0, head_dim=16, factor=8.0, low=1.0, high=4.0, original=32)
    path = written(tmp_path, monkeypatch, lambda writer: writer.add_tensor("rope_freqs.weight", values))
    made = AutoModelForCausalLM.from_pretrained(convert_gguf(path, tmp_path / "made"), dtype=torch.float32)
    assert made.config.rope_parameters == SCALING
    original = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.bfloat16).float()
    tokens = torch.randint(0, 384, (1, 100), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(made(tokens).logits, original(tokens).logits)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (lambda w: w.add_tensor("rope_freqs.weight", np.float32([1, 3, 2, 5, 1, 7, 2, 1])), "type llama3"),
        (
            lambda w: w.add_tensor("rope_freqs.weight", np.ones(3, np.float32)),
            "3 values in rope_freqs",
        ),
        (lambda w: w.add_tensor("blk.0.attn_q.bias", np.ones(64, np.float32)), "no place: blk.0.attn_q.bias"),
        (
            lambda w: w.add_tensor("blk.0.ffn_gate_inp.weight", np.ones((4, 64), np.float32)),
            "no place: blk.0",
        ),
        (lambda w: w.add_rope_scaling_type(YARN), None),
        (
            lambda w: (w.add_rope_scaling_type(YARN), w.add_rope_scaling_factor(4.0)),
            "yarn",
        ),
        (lambda w: w.add_sliding_window(8), "attention.sliding_window=8"),
        (lambda w: w.add_final_logit_softcapping(30.0), "final_logit_softcapping=30"),
        (lambda w: w.add_key_length(32), "rope.dimension_count=16"),
    ],
)
def test_what_would_be_lost_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: Callable[[Writer], None], told: str | None
) -> None:
    path = written(tmp_path, monkeypatch, more)
    if told is None:
        assert convert_gguf(path, tmp_path / "made").is_dir()
        return
    with pytest.raises(UnsupportedCheckpoint, match=told):
        convert_gguf(path, tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_a_linear_scaling_is_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def linear(writer: Writer) -> None:
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(2.0)

    made = convert_gguf(written(tmp_path, monkeypatch, linear), tmp_path / "made")
    rope = json.loads((made / "config.json").read_text())["rope_parameters"]
    assert rope == {"rope_type": "linear", "factor": 2.0, "rope_theta": 500000.0}


def test_weights_that_are_not_finite_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add = Writer.add_tensor

    def damaged(self: Writer, name: str, tensor: np.ndarray) -> None:
        if name == "blk.1.ffn_up.weight":
            tensor = tensor.copy()
            tensor[3, 5] = np.nan
        add(self, name, tensor)

    monkeypatch.setattr(Writer, "add_tensor", damaged)
    path = written(tmp_path, monkeypatch, lambda writer: None)
    with pytest.raises(UnsupportedCheckpoint, match=r"layers.1.mlp.up_proj.weight .* 1 values that are NaN"):
        convert_gguf(path, tmp_path / "made")


def test_what_is_written_is_compared_as_every_checkpoint_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = LlamaForCausalLM.save_pretrained

    def with_one_more(self: LlamaForCausalLM, directory: Path) -> None:
        save(self, directory)
        weights = load_file(directory / "model.safetensors")
        weights["model.layers.0.mlp.up_proj.bias"] = torch.zeros(128)
        save_file(weights, directory / "model.safetensors", {"format": "pt"})

    path = written(tmp_path, monkeypatch, lambda writer: None)
    monkeypatch.setattr(LlamaForCausalLM, "save_pretrained", with_one_more)
    with pytest.raises(UnsupportedCheckpoint, match=r"not the same model: 1 are stored .*up_proj\.bias"):
        convert_gguf(path, tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_a_file_without_all_tensors_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add = Writer.add_tensor

    def some(self: Writer, name: str, tensor: np.ndarray) -> None:
        if name != "blk.1.ffn_up.weight":
            add(self, name, tensor)

    monkeypatch.setattr(Writer, "add_tensor", some)
    path = written(tmp_path, monkeypatch, lambda writer: None)
    with pytest.raises(UnsupportedCheckpoint, match=r"lacks 1 tensors .* model.layers.1.mlp.up_proj.weight"):
        convert_gguf(path, tmp_path / "made")


@given(
    theta=st.sampled_from([1e4, 5e5, 1e6, 5e6]),
    head_dim=st.sampled_from([8, 16, 64, 80, 128, 256]),
    factor=st.sampled_from([2.0, 2.5, 8.0, 32.0]),
    low=st.sampled_from([1.0, 2.0]),
    spread=st.sampled_from([2.0, 3.0, 4.0, 8.0]),
    original=st.sampled_from([32, 100, 2048, 6000, 8192, 32768]),
)
@settings(max_examples=200, deadline=None)
def test_a_curve_is_found_that_gives_the_same_factors(
    theta: float, head_dim: int, factor: float, low: float, spread: float, original: int
) -> None:
    values = factors(
        theta=theta, head_dim=head_dim, factor=factor, low=low, high=low * spread, original=original
    )
    found = llama3_scaling(values.astype(np.float64), theta=theta)
    again = (
        factors(
            theta=theta,
            head_dim=head_dim,
            factor=found["factor"],
            low=found["low_freq_factor"],
            high=found["high_freq_factor"],
            original=found["original_max_position_embeddings"],
        )
        if found
        else np.ones_like(values)
    )
    assert np.allclose(again, values, rtol=1e-4)
