"""Checkpoints of the types with something of their own, in which nothing is idle: biases, norms, sinks and
routers' corrections are random too."""

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from tests.models import tiny_config, tiny_tokenizer


def own_model(name: str, *, seed: int = 0) -> PreTrainedModel:
    """Returns a random model of an entry of OWN."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(tiny_config(name), dtype=torch.float32)
        for path, tensor in model.state_dict().items():
            if tensor.dim() == 1 or "norm" in path or path.endswith("_bias"):
                tensor += 0.1 * torch.randn_like(tensor)
    return model


def own_checkpoint(name: str, directory: Path) -> Path:
    """Writes a random model of an entry of OWN with its tokenizer, and returns `directory`."""
    own_model(name).save_pretrained(directory)
    tiny_tokenizer(name).save_pretrained(directory)
    return directory
