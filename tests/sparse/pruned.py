"""Tiny real checkpoints with zeros, as pruning by any tool leaves them."""

from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.models import tiny_checkpoint

OUTER = ("embed", "wte", "wpe", "lm_head", "project_")  # matrices outside of the blocks, which nobody prunes


def pruned_checkpoint(
    kind: str,
    directory: Path,
    *,
    sparsity: float = 0.7,
    dtype: str = "float32",
    max_shard_size: str | None = None,
) -> Path:
    """A tiny checkpoint of a kind whose linears have this share of zeros, the smallest weights of each."""
    tiny_checkpoint(kind, directory, dtype=dtype, max_shard_size=max_shard_size)
    for path in directory.glob("*.safetensors"):
        tensors = load_file(path)
        for name, weight in tensors.items():
            if weight.dim() == 2 and not any(part in name for part in OUTER):
                tensors[name] = pruned(weight, sparsity)
        save_file(tensors, path, metadata={"format": "pt"})
    return directory


def pruned(weight: Tensor, sparsity: float) -> Tensor:
    """A weight whose smallest values are +0."""
    count = int(sparsity * weight.numel())
    order = weight.abs().flatten().float().argsort(stable=True)
    flat = weight.flatten().clone()
    flat[order[:count]] = 0.0
    return flat.view(weight.shape)
