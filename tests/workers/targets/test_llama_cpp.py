"""GGUF files, opened by llama.cpp itself in a fresh process, answer as transformers does."""

import json
import re
from pathlib import Path
from typing import Any

import gguf
import pytest
from safetensors.torch import load_file, save_file

from pipeline.errors import InvalidSpec, TargetFailed, UnsupportedCheckpoint
from tests.pipeline.vocabulary.tokenizers import sentencepiece_files, sentencepiece_model
from tests.workers.targets.made_models import checked, compared, exported, made_model, with_config
from workers.targets.agreement import FLOAT32, SIXTEEN

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
# head_dim stays 16 where heads and channels are cut, so that it is no longer hidden_size / heads.
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama-untied-biases": ("llama", {"tie_word_embeddings": False, "attention_bias": True}),
    "llama-scaled": ("llama", {"rope_parameters": LLAMA3}),
    "llama-linear": (
        "llama",
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 500.0, "factor": 4.0}},
    ),
    "mistral-cut": ("mistral", {"num_attention_heads": 3, "num_key_value_heads": 1, "hidden_size": 80}),
    "qwen2": ("qwen2", {}),
    "qwen3-cut": ("qwen3", {"num_attention_heads": 2, "num_key_value_heads": 2, "tie_word_embeddings": True}),
}


@pytest.mark.parametrize("name", MODELS)
def test_llama_cpp_computes_what_transformers_does(name: str, tmp_path: Path) -> None:
    kind, fields = MODELS[name]
    found = checked("llama.cpp", made_model(tmp_path / "model", kind, **fields))
    assert (found.prompts, found.tokens, found.texts) == (4, 48, 2)
    assert found.compared > 200  # tokens that end within a character have none
    assert found.difference < found.tolerance == FLOAT32


def test_narrow_weights_stay_as_they_are_stored(tmp_path: Path) -> None:
    model = made_model(tmp_path / "model", dtype="bfloat16")
    found = checked("llama.cpp", model)
    assert found.difference < found.tolerance == SIXTEEN["bfloat16"]
    reader = gguf.GGUFReader(tmp_path / "model-llama.cpp" / "model.gguf")
    types = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert types["blk.0.ffn_up.weight"] == "BF16"
    assert types["blk.0.attn_norm.weight"] == "F32"
    assert "output.weight" not in types  # it is the embedding


def test_a_model_that_rounding_changes_much_is_no_disagreement(tmp_path: Path) -> None:
    """Large activations, as some cuts leave them: transformers in bfloat16 differs as much from itself."""
    model = made_model(tmp_path / "model", dtype="bfloat16")
    weights = load_file(model / "model.safetensors")
    for name in weights:
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            weights[name] *= 12
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    found = checked("llama.cpp", model)
    assert SIXTEEN["bfloat16"] < found.difference < found.tolerance


def test_a_sentencepiece_tokenizer_is_written_with_its_scores(tmp_path: Path) -> None:
    files = sentencepiece_files(sentencepiece_model("bpe", byte_fallback=True))
    rows = json.loads(files["config.json"])["vocab_size"]
    model = made_model(tmp_path / "model", vocab_size=rows + 24)  # rows without a token, as in padded models
    (model / "tokenizer.json").unlink()
    for name, data in files.items():
        if name != "config.json":
            (model / name).write_bytes(data)
    assert checked("llama.cpp", model).texts == 2


@pytest.mark.parametrize(
    "fields",
    [
        {"rms_norm_eps": 0.3},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 3.0}},
    ],
)
def test_a_file_of_another_model_is_found(fields: dict[str, Any], tmp_path: Path) -> None:
    model = made_model(tmp_path / "model")
    written = exported("llama.cpp", model)
    with pytest.raises(TargetFailed, match=r"llama\.cpp: after a prompt of \d+ tokens, generated token \d+"):
        compared("llama.cpp", with_config(model, **fields), written)


def test_rows_in_the_wrong_order_are_found(tmp_path: Path) -> None:
    """As a writer that forgets llama.cpp's order of query rows would leave them."""
    model = made_model(tmp_path / "model")
    written = exported("llama.cpp", model)
    weights = load_file(model / "model.safetensors")
    name = "model.layers.1.self_attn.q_proj.weight"
    heads = weights[name].view(4, 8, 2, -1)
    weights[name] = heads.transpose(1, 2).reshape(64, 64).contiguous()
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(TargetFailed, match="computes something else"):
        compared("llama.cpp", model, written)


def test_a_tokenizer_that_cuts_otherwise_is_found(tmp_path: Path) -> None:
    model = made_model(tmp_path / "model")
    written = exported("llama.cpp", model)
    tokenizer = json.loads((model / "tokenizer.json").read_bytes())
    tokenizer["model"]["merges"] = tokenizer["model"]["merges"][:10]
    (model / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(TargetFailed, match="its tokenizer cuts"):
        compared("llama.cpp", model, written)


def test_a_file_that_is_cut_short_does_not_open(tmp_path: Path) -> None:
    model = made_model(tmp_path / "model")
    written = exported("llama.cpp", model)
    file = written / "model.gguf"
    file.write_bytes(file.read_bytes()[:-100_000])
    with pytest.raises(TargetFailed, match=re.escape("llama.cpp cannot open or run what would be published")):
        compared("llama.cpp", model, written)


def test_a_tensor_without_a_name_in_gguf_is_refused(tmp_path: Path) -> None:
    model = made_model(tmp_path / "model")
    weights = load_file(model / "model.safetensors")
    weights["model.layers.0.self_attn.q_scale"] = weights["model.norm.weight"].clone()
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UnsupportedCheckpoint, match=r"model\.layers\.0\.self_attn\.q_scale"):
        exported("llama.cpp", model)


def test_a_type_without_metadata_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidSpec, match="types that can: llama, mistral, qwen2, qwen3"):
        exported("llama.cpp", made_model(tmp_path / "model", "gpt_neox"))
