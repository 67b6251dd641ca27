"""Checkpoints of the Llama-like types, whose biases and norms are random too, so that none is idle."""

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from tests.models import tiny_config, tiny_tokenizer


def llama_like_checkpoint(name: str, directory: Path) -> Path:
    """Writes a random model of an entry of LLAMA_LIKE with its tokenizer, and returns `directory`."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(tiny_config(name), dtype=torch.float32)
        for path, parameter in model.named_parameters():
            if parameter.dim() == 1 or "norm" in path:
                parameter += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(directory)
    tiny_tokenizer(name).save_pretrained(directory)
    return directory
