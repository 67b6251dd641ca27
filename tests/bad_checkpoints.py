"""Checkpoints as people have them that are not what their config.json says, made of a tiny Llama."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from tests.model_configs import VOCABULARY, tiny_config
from tests.models import tiny_tokenizer

Tensors = dict[str, Tensor]


def untied(directory: Path, **changes: object) -> Path:
    """A random Llama with a head of its own and its tokenizer. `changes`: fields of its config."""
    config = tiny_config("llama")
    for field, value in {"tie_word_embeddings": False, **changes}.items():
        setattr(config, field, value)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.constant_(parameter, 0.5)
    model.save_pretrained(directory)
    tiny_tokenizer("llama").save_pretrained(directory)
    return directory


def edit_config(directory: Path, **fields: object) -> Path:
    """Change fields of config.json; `...` removes one."""
    path = directory / "config.json"
    content = {**json.loads(path.read_text()), **fields}
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not ...}))
    return directory


def edit_weights(directory: Path, change: Callable[[Tensors], Tensors]) -> Path:
    """Write other tensors in the place of the stored ones."""
    path = directory / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})
    return directory


def two_heads(directory: Path, *, same: bool = False) -> Path:
    """The config says that the head is the embedding; the file stores a head of its own, or a copy."""
    edit_config(untied(directory), tie_word_embeddings=True)
    if same:
        copied = "model.embed_tokens.weight"
        edit_weights(directory, lambda t: t | {"lm_head.weight": t[copied].clone()})
    return directory


def unmerged(directory: Path) -> Path:
    """As peft's own model is saved whole: the names of its wrapper, and no adapter merged."""
    untied(directory)
    return edit_weights(directory, lambda t: {f"base_model.model.{name}": value for name, value in t.items()})


def stray_biases(directory: Path) -> Path:
    """As Granite's code models: biases that config.json does not mention."""
    untied(directory, attention_bias=True, mlp_bias=True)
    return edit_config(directory, attention_bias=..., mlp_bias=...)


def more_rows(directory: Path) -> Path:
    """The embedding was resized, and the config was not."""
    return edit_config(untied(directory, vocab_size=VOCABULARY + 8), vocab_size=VOCABULARY)


def int8(directory: Path) -> Path:
    """Codes and scales, as in W8A8 checkpoints, and no word of it in config.json."""

    def quantized(tensors: Tensors) -> Tensors:
        found = dict(tensors)
        for name, weight in tensors.items():
            if "proj" in name:
                scale = weight.abs().amax(1, keepdim=True) / 127
                found[name] = (weight / scale).round().to(torch.int8)
                found[f"{name}_scale"] = scale.squeeze(1)
        return found

    return edit_weights(untied(directory), quantized)


def emptied(directory: Path) -> Path:
    """As saved under ZeRO stage 3 without gathering."""
    return edit_weights(untied(directory), lambda t: {name: one.new_empty(0) for name, one in t.items()})


def not_finite(directory: Path, name: str = "model.layers.1.mlp.up_proj.weight") -> Path:
    """Two NaN and one infinite weight."""

    def broken(tensors: Tensors) -> Tensors:
        flat = tensors[name].view(-1)
        flat[7] = flat[9] = float("nan")
        flat[11] = float("-inf")
        return tensors

    return edit_weights(untied(directory), broken)
