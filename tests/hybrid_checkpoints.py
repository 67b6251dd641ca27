"""Checkpoints of the types in hybrid_configs.py, in which no bias, norm or stored buffer is idle."""

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from tests.models import tiny_config, tiny_tokenizer


def hybrid_checkpoint(name: str, directory: Path) -> Path:
    """Writes a random model of an entry of HYBRID with its tokenizer, and returns `directory`."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(tiny_config(name), dtype=torch.float32)
        for path, tensor in model.state_dict().items():
            if tensor.dim() == 1 or "norm" in path:
                tensor += 0.1 * torch.randn_like(tensor)
    model.save_pretrained(directory)
    tiny_tokenizer(name).save_pretrained(directory)
    return directory
