"""Every stored tensor has its place in the model that config.json makes, and every place its tensor."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.checkpoint.compare import Comparison, compare
from pipeline.checkpoint.header import TensorFacts
from pipeline.checkpoint.leftovers import harmless
from pipeline.checkpoint.skeleton import locate, shapes_only
from pipeline.errors import UnsupportedCheckpoint
from tests.model_configs import EVERY, tiny_config

Tensors = dict[str, TensorFacts]
SCALES = (
    *("weight_scale", "input_scale", "weight_scale_inv", "weight_zero_point", "SCB", "qweight", "qzeros"),
    *("scales", "g_idx", "weight.absmax", "weight.quant_state.bitsandbytes__nf4", "weight_packed"),
)


def config_of(kind: str) -> dict[str, Any]:
    """The config.json of a tiny model."""
    loaded: dict[str, Any] = json.loads(tiny_config(kind).to_json_string(use_diff=False))
    return loaded


def tensors_of(kind: str, *, dtype: str = "BF16") -> Tensors:
    """The tensors that `save_pretrained` would store of it: experts one by one, tied ones once."""
    model = shapes_only(tiny_config(kind))
    located = locate(model, Anything())
    stored: Tensors = {}
    seen = set()
    for name, disk in located.names.items():
        tensor = model.state_dict(keep_vars=True).get(name)
        if tensor is None or id(tensor) not in seen:
            stored[disk] = TensorFacts(dtype, located.shapes[name], "model.safetensors")
        seen.add(id(tensor))
    return stored


class Anything(set[str]):
    """The names of a checkpoint that has every tensor."""

    def __contains__(self, name: object) -> bool:
        return True


def refusal(config: Mapping[str, Any], tensors: Tensors) -> str:
    with pytest.raises(UnsupportedCheckpoint) as caught:
        compare(config, tensors, where="the model")
    assert caught.value.param in (None, "spec.model.source")
    return caught.value.message


def changed(tensors: Tensors, name: str, **facts: Any) -> Tensors:
    kept = tensors[name]
    return tensors | {name: TensorFacts(**{**vars(kept), **facts})}


@pytest.mark.parametrize("kind", EVERY)
def test_every_model_as_it_is_saved_fits_its_config(kind: str) -> None:
    for dtype in ("F32", "BF16", "F16", "F64"):
        assert compare(config_of(kind), tensors_of(kind, dtype=dtype), where="x") == Comparison((), ())


@pytest.mark.parametrize("kind", EVERY)
def test_no_parameter_is_called_like_a_leftover(kind: str) -> None:
    assert not harmless(shapes_only(tiny_config(kind)).state_dict())


@pytest.mark.parametrize("kind", ["llama", "gpt2", "opt", "falcon", "bloom", "gpt_neox", "mixtral"])
def test_a_checkpoint_of_the_base_model_has_no_prefix(kind: str) -> None:
    prefix = shapes_only(tiny_config(kind)).base_model_prefix + "."
    without = {name.removeprefix(prefix): facts for name, facts in tensors_of(kind).items()}
    assert compare(config_of(kind), without, where="x").ignored == ()


def test_a_tied_head_may_be_stored_too() -> None:
    tensors = tensors_of("llama")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    found = compare(config_of("llama"), tensors, where="x")
    assert found.same == (("model.embed_tokens.weight", "lm_head.weight"),)
    del tensors["model.embed_tokens.weight"]  # transformers then ties the other way round
    assert compare(config_of("llama"), tensors, where="x").same == ()


def test_buffers_of_older_versions_are_named_and_ignored() -> None:
    tensors = tensors_of("gpt_neox")
    old = {f"gpt_neox.layers.{i}.attention.{end}" for i in (0, 1) for end in ("bias", "masked_bias")}
    old |= {"gpt_neox.layers.0.attention.rotary_emb.inv_freq"}
    tensors |= dict.fromkeys(old, TensorFacts("BOOL", (1, 1, 8, 8), "model.safetensors"))
    found = compare(config_of("gpt_neox"), tensors, where="x")
    assert set(found.ignored) == old
    assert "5 stored tensors are not read" in found.remarks[0]
    assert "gpt_neox.layers.0.attention.bias" in found.remarks[0]


def test_biases_that_the_config_does_not_mention_name_the_flags() -> None:
    """As in Granite's code models: a Llama with biases, whose config lacks the flags."""
    tensors = tensors_of("llama")
    for name in [name for name in tensors if "proj" in name]:
        length = tensors[name].shape[0]
        tensors[name.replace("weight", "bias")] = TensorFacts("BF16", (length,), "model.safetensors")
    config = config_of("llama")
    message = refusal(config, tensors)
    assert "28 are stored that the model has no place for (model.layers.0.mlp.down_proj.bias" in message
    assert "set attention_bias to true and mlp_bias to true in config.json" in message
    compare(config | {"attention_bias": True, "mlp_bias": True}, tensors, where="x")
    message = refusal(config | {"attention_bias": True, "mlp_bias": True}, tensors_of("llama"))
    assert "28 tensors are missing" in message
    assert "set attention_bias to false and mlp_bias to false" in message


def test_a_head_that_is_missing_may_be_the_embedding() -> None:
    message = refusal(config_of("llama") | {"tie_word_embeddings": False}, tensors_of("llama"))
    assert "1 tensors are missing (lm_head.weight)" in message
    assert "set tie_word_embeddings to true" in message


def test_names_of_another_class() -> None:
    wrapped = {f"language_model.{name}": facts for name, facts in tensors_of("qwen3").items()}
    message = refusal(config_of("qwen3"), wrapped)
    assert "names such as model.layers.0 were expected" in message
    assert "the first is language_model.lm_head.weight" in message
    other = tensors_of("llama") | {"score.weight": TensorFacts("BF16", (2, 64), "x")}
    assert "no place for (score.weight)" in refusal(config_of("llama"), other)


@pytest.mark.parametrize("dtype", ["I8", "U8", "I32", "F8_E4M3", "F8_E5M2", "F4", "BOOL"])
def test_weights_that_are_not_floating_point(dtype: str) -> None:
    message = refusal(
        config_of("llama"), changed(tensors_of("llama"), "model.layers.2.mlp.up_proj.weight", dtype=dtype)
    )
    assert "the first: model.layers.2.mlp.up_proj.weight in " in message
    assert f", {dtype};" in message
    assert "dequantize first" in message


@pytest.mark.parametrize("suffix", SCALES)
def test_scales_beside_weights(suffix: str) -> None:
    name = f"model.layers.0.self_attn.q_proj.{suffix}"
    message = refusal(config_of("llama"), tensors_of("llama") | {name: TensorFacts("F32", (64,), "x")})
    assert name in message
    assert "quantiz" in message


def test_empty_tensors_are_what_zero_3_leaves() -> None:
    tensors = {name: TensorFacts("BF16", (0,), "x") for name in tensors_of("llama")}
    message = refusal(config_of("llama"), tensors)
    assert "38 of 38 tensors are empty" in message
    assert "zero_to_fp32.py" in message


def test_rows_that_are_not_vocab_size_name_both_numbers() -> None:
    for kind in EVERY:
        message = refusal(config_of(kind) | {"vocab_size": 400}, tensors_of(kind))
        assert "384" in message
        assert "vocab_size 400" in message
        assert "resize_token_embeddings(400)" in message


def test_a_config_of_another_model() -> None:
    tensors = tensors_of("llama")
    assert "holds 4 blocks, and config.json says num_hidden_layers 10000000" in refusal(
        config_of("llama") | {"num_hidden_layers": 10_000_000}, tensors
    )
    message = refusal(config_of("llama") | {"num_key_value_heads": 4}, tensors)
    assert "k_proj.weight has shape [32, 64]" in message
    assert "[64, 64]" in message
    assert "transformers makes no model" in refusal(config_of("llama") | {"hidden_act": "wavy"}, tensors)


@given(data=st.data(), kind=st.sampled_from(EVERY))
@settings(max_examples=60, derandomize=True, deadline=None)
def test_whatever_changes_is_refused_by_name(data: st.DataObject, kind: str) -> None:
    tensors = tensors_of(kind)
    name = data.draw(st.sampled_from(sorted(tensors)))
    fault = data.draw(st.sampled_from(["missing", "renamed", "longer", "transposed", "flat", "typed"]))
    shape = tensors[name].shape
    if fault == "missing":
        del tensors[name]
    elif fault == "renamed":
        tensors[f"{name}.x"] = tensors.pop(name)
    elif fault == "longer":
        tensors = changed(tensors, name, shape=(shape[0] + data.draw(st.integers(1, 9)), *shape[1:]))
    elif fault == "transposed":
        if shape == shape[::-1]:
            return
        tensors = changed(tensors, name, shape=shape[::-1])
    elif fault == "flat":
        tensors = changed(tensors, name, shape=(*shape, 1))
    else:
        tensors = changed(tensors, name, dtype=data.draw(st.sampled_from(["I8", "F8_E4M3", "BOOL"])))
    message = refusal(config_of(kind), tensors)
    known = {name, name.rpartition(".")[0]}
    assert any(one in message for one in known) or "blocks" in message or fault in ("missing", "renamed")


@given(order=st.randoms(use_true_random=False))
@settings(max_examples=10, derandomize=True, deadline=None)
def test_the_order_of_tensors_and_their_files_do_not_matter(order: Any) -> None:
    tensors = list(tensors_of("qwen3_moe").items())
    order.shuffle(tensors)
    in_shards = {name: TensorFacts(one.dtype, one.shape, f"{i}") for i, (name, one) in enumerate(tensors)}
    assert compare(config_of("qwen3_moe"), in_shards, where="x") == Comparison((), ())
