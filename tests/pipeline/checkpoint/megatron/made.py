"""Tiny checkpoints of the types that Megatron knows, and the tensors that Megatron must hold, by loops."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from tests.model_configs import tiny_config

GROUPED = {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 8}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama-tied": ("llama", {**GROUPED, "num_hidden_layers": 2}),
    "llama-biases": (
        "llama",
        {**GROUPED, "tie_word_embeddings": False, "attention_bias": True, "mlp_bias": True},
    ),
    "llama-scaled": ("llama", {"rope_parameters": LLAMA3, "max_position_embeddings": 16384}),
    "mistral-wide-heads": ("mistral", {"head_dim": 24, "sliding_window": None}),
    "mistral-sliding": ("mistral-sliding", GROUPED),
    "qwen2": ("qwen2", GROUPED),
    "qwen2-sliding": ("qwen2-sliding", GROUPED),
    "qwen3": ("qwen3", {**GROUPED, "head_dim": 16}),
}


def checkpoint(name: str, directory: Path, **changes: object) -> Path:
    """Write a random model whose norms and biases are random too, and return its directory. `name`: one of
    MODELS, or a kind of the tiny models."""
    kind, own = MODELS.get(name, (name, {}))
    config = tiny_config(kind)
    full = type(config)(**{**config.to_dict(), **own, **changes})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(full, dtype=torch.float32)
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.data.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(directory)
    return directory


def loaded(directory: Path) -> PreTrainedModel:
    """Load a model with stock transformers, which must use every tensor and miss none."""
    model, notes = AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, output_loading_info=True
    )
    assert not notes["unexpected_keys"], notes
    assert not notes["mismatched_keys"], notes
    assert not [key for key in notes["missing_keys"] if key != "lm_head.weight"], notes
    return model.eval()


def logits(directory: Path, tokens_BL: Tensor) -> Tensor:
    """The logits [B, L, V] of a Hugging Face directory."""
    with torch.no_grad():
        return loaded(directory)(input_ids=tokens_BL, use_cache=False).logits


def tensors(directory: Path) -> dict[str, Tensor]:
    """Every stored tensor of a Hugging Face directory."""
    return {
        name: tensor
        for path in sorted(directory.glob("*.safetensors"))
        for name, tensor in load_file(path).items()
    }


def share_by_loops(stored: dict[str, Tensor], config: Any, *, rank: int, ranks: int) -> dict[str, Tensor]:
    """The tensors of rank `rank` of `ranks` for a model without biases and head norms, copied row by row,
    with the names of models without Transformer Engine."""
    wide, groups = config.num_attention_heads // config.num_key_value_heads, config.num_key_value_heads
    dim, channels = config.head_dim, config.intermediate_size // ranks
    first = rank * channels
    share = {"decoder.final_layernorm.weight": stored["model.norm.weight"]}
    for theirs, ours in (
        ("embedding.word_embeddings", "model.embed_tokens"),
        ("output_layer", "lm_head"),
    ):
        if f"{ours}.weight" in stored:
            table = stored[f"{ours}.weight"]
            padded = -(-len(table) // (128 * ranks)) * 128 * ranks
            each = padded // ranks
            rows = [table[i] if i < len(table) else torch.zeros_like(table[0]) for i in range(padded)]
            share[f"{theirs}.weight"] = torch.stack(rows[rank * each : (rank + 1) * each])
    for block in range(config.num_hidden_layers):
        own = {
            name.removeprefix(f"model.layers.{block}.").removesuffix(".weight"): tensor
            for name, tensor in stored.items()
            if name.startswith(f"model.layers.{block}.")
        }
        query, key, value = (own[f"self_attn.{one}_proj"] for one in "qkv")
        qkv, heads = [], []
        for group in range(rank * groups // ranks, (rank + 1) * groups // ranks):
            for head in range(group * wide, (group + 1) * wide):
                qkv += [query[head * dim + i] for i in range(dim)]
                heads += [head * dim + i for i in range(dim)]
            qkv += [key[group * dim + i] for i in range(dim)]
            qkv += [value[group * dim + i] for i in range(dim)]
        gate_up = [own["mlp.gate_proj"][first + i] for i in range(channels)]
        gate_up += [own["mlp.up_proj"][first + i] for i in range(channels)]
        there = {
            "input_layernorm": own["input_layernorm"],
            "self_attention.linear_qkv": torch.stack(qkv),
            "self_attention.linear_proj": torch.stack([own["self_attn.o_proj"][:, i] for i in heads], dim=1),
            "pre_mlp_layernorm": own["post_attention_layernorm"],
            "mlp.linear_fc1": torch.stack(gate_up),
            "mlp.linear_fc2": torch.stack(
                [own["mlp.down_proj"][:, first + i] for i in range(channels)], dim=1
            ),
        }
        share |= {f"decoder.layers.{block}.{name}.weight": tensor for name, tensor in there.items()}
    return share
