"""Tiny multimodal checkpoints: real classes of transformers with small towers, random weights, and a real
tokenizer. They are saved in transformers' own layout, or in one that hubs have."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForMultimodalLM, PreTrainedModel

from tests.model_configs import POSITIONS, VOCABULARY
from tests.models import tiny_tokenizer

_TEXT: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "max_position_embeddings": POSITIONS,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}
_TOWER: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
_QWEN_TOWER: dict[str, Any] = {
    "depth": 2,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_heads": 2,
    "out_hidden_size": 64,
}
_SECTIONS = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2]}
_IMAGE = {"image_token_id": VOCABULARY - 1, "video_token_id": VOCABULARY - 2}
_QWEN: dict[str, Any] = {
    **_IMAGE,
    "vision_start_token_id": VOCABULARY - 3,
    "vision_end_token_id": VOCABULARY - 4,
}


def _llava_like(model_type: str, text: dict[str, Any], tower: str, **own: Any) -> dict[str, Any]:
    return {
        "model_type": model_type,
        "text_config": {**_TEXT, **text},
        "vision_config": {"model_type": tower, **_TOWER},
        "image_token_index": VOCABULARY - 1,
        **own,
    }


WRAPPED: dict[str, dict[str, Any]] = {
    "gemma3": _llava_like(
        "gemma3",
        {
            "model_type": "gemma3_text",
            "head_dim": 24,
            "sliding_window": 8,
            "layer_types": ["sliding_attention", "full_attention"],
        },
        "siglip_vision_model",
        mm_tokens_per_image=4,
        boi_token_index=VOCABULARY - 2,
        eoi_token_index=VOCABULARY - 3,
    ),
    "mistral3": _llava_like(
        "mistral3",
        {"model_type": "mistral", "head_dim": 24, "sliding_window": None},
        "pixtral",
        tie_word_embeddings=False,
    ),
    "ministral3": _llava_like(
        "mistral3", {"model_type": "ministral3", "head_dim": 24}, "pixtral", tie_word_embeddings=False
    ),
    "llava": _llava_like("llava", {"model_type": "llama"}, "clip_vision_model"),
    "llava_next": _llava_like("llava_next", {"model_type": "mistral", "head_dim": 24}, "clip_vision_model"),
    "llava_onevision": _llava_like(
        "llava_onevision",
        {"model_type": "qwen2", "tie_word_embeddings": True},
        "siglip_vision_model",
        video_token_index=VOCABULARY - 2,
    ),
    "internvl": {
        "model_type": "internvl",
        "text_config": {**_TEXT, "model_type": "qwen3", "head_dim": 24},
        "vision_config": {**_TOWER, "image_size": [28, 28], "patch_size": [14, 14]},
        "image_token_id": VOCABULARY - 1,
        "tie_word_embeddings": False,
    },
    "smolvlm": {
        "model_type": "smolvlm",
        "text_config": {**_TEXT, "model_type": "llama"},
        "vision_config": dict(_TOWER),
        "image_token_id": VOCABULARY - 1,
        "scale_factor": 2,
    },
    "idefics3": {
        "model_type": "idefics3",
        "text_config": {**_TEXT, "model_type": "llama"},
        "vision_config": dict(_TOWER),
        "image_token_id": VOCABULARY - 1,
        "scale_factor": 2,
    },
    "qwen2_vl": {
        "model_type": "qwen2_vl",
        "text_config": {**_TEXT, "model_type": "qwen2_vl_text", "rope_parameters": _SECTIONS},
        "vision_config": {"depth": 2, "embed_dim": 32, "hidden_size": 64, "num_heads": 2, "mlp_ratio": 2},
        **_QWEN,
    },
    "qwen2_5_vl": {
        "model_type": "qwen2_5_vl",
        "text_config": {**_TEXT, "model_type": "qwen2_5_vl_text", "rope_parameters": _SECTIONS},
        "vision_config": {**_QWEN_TOWER, "fullatt_block_indexes": [1]},
        **_QWEN,
    },
    "qwen3_vl": {
        "model_type": "qwen3_vl",
        "text_config": {
            **_TEXT,
            "model_type": "qwen3_vl_text",
            "head_dim": 16,
            "rope_parameters": {**_SECTIONS, "mrope_interleaved": True},
        },
        "vision_config": {**_QWEN_TOWER, "deepstack_visual_indexes": [0], "num_position_embeddings": 16},
        **_QWEN,
    },
}


def wrapper_checkpoint(name: str, directory: Path, *, dtype: str = "float32") -> Path:
    """Writes a random model of an entry of WRAPPED with its tokenizer, and returns `directory`."""
    config = dict(WRAPPED[name])
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = AutoModelForMultimodalLM.from_config(
            AutoConfig.for_model(**config), dtype=getattr(torch, dtype)
        )
        for path, parameter in model.named_parameters():
            if parameter.dim() == 1 or "norm" in path:
                parameter += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(directory)
    tiny_tokenizer("llama").save_pretrained(directory)
    (directory / "preprocessor_config.json").write_text('{"image_size": 28}')
    return directory


def loaded_wrapper(directory: Path) -> PreTrainedModel:
    """The whole model in stock transformers, which must use every tensor and miss none."""
    model, notes = AutoModelForMultimodalLM.from_pretrained(
        directory, dtype=torch.float32, output_loading_info=True
    )
    for kind in ("unexpected_keys", "mismatched_keys", "missing_keys"):
        assert not notes[kind], (kind, notes)
    return model.eval()


def renamed_checkpoint(directory: Path, rename: Callable[[str], str]) -> None:
    """Gives every tensor of a checkpoint in one file another name."""
    tensors = load_file(directory / "model.safetensors")
    save_file(
        {rename(name): tensor for name, tensor in tensors.items()},
        directory / "model.safetensors",
        metadata={"format": "pt"},
    )


def changed_config(directory: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Changes the content of a checkpoint's config.json."""
    path = directory / "config.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
