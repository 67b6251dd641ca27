"""Masks on the device against masks on the CPU, for a tiny model of every type."""

import tempfile
from pathlib import Path

import torch
from safetensors.torch import load

from gpu_sections.setting import Setting
from pipeline.allocations.uniform import Uniform
from pipeline.artifacts.refs import CheckpointRef
from pipeline.blocks.local import LocalCrew
from pipeline.blocks.pruning import Pruning, prune_blocks
from pipeline.blocks.steps import run_through
from pipeline.checkpoint.prunable import prunable_weights
from pipeline.methods import OneShot
from pipeline.methods.admm import Admm
from pipeline.methods.dsnot import Dsnot
from pipeline.methods.ria import Ria
from pipeline.methods.sparsegpt import SparseGPT
from pipeline.methods.wanda import Wanda
from pipeline.spec.patterns import NM, Unstructured
from pipeline.storage.content import ContentStore
from pipeline.tensor.packing import unpack_keep
from tests.checkpoints import imported
from tests.model_configs import EVERY, VOCABULARY
from tests.models import tiny_checkpoint

METHODS: tuple[OneShot, ...] = (Wanda(), Ria(), Dsnot(), SparseGPT(), Admm())
LEAST = 0.995  # of the weights must be decided alike; rounding decides close ones


def truth(setting: Setting) -> dict[str, object]:
    """The least share of weights that both devices decide alike, by method, and the model where it is. Raises
    AssertionError below LEAST."""
    kinds = EVERY[:2] if setting.quick else EVERY
    methods = (Wanda(), SparseGPT()) if setting.quick else METHODS
    worst = {method.kind: (1.0, "") for method in methods}
    with tempfile.TemporaryDirectory(prefix="secateur-bench-") as name:
        for kind in kinds:
            directory = tiny_checkpoint(kind, Path(name) / kind)
            content, checkpoint = imported(directory, Path(name) / f"{kind}-store")
            for i, method in enumerate(methods):
                pattern = NM(keep=2, group=4) if i % 2 else Unstructured(sparsity=0.5)
                here, there = (
                    keeps(content, checkpoint, method, pattern, device)
                    for device in (torch.device("cpu"), setting.device)
                )
                alike = sum(int((here[one] == there[one]).sum()) for one in here)
                share = alike / sum(one.numel() for one in here.values())
                worst[method.kind] = min(worst[method.kind], (share, kind))
    for method_kind, (share, kind) in worst.items():
        assert share >= LEAST, f"{method_kind} decides {share:.4f} of {kind}'s weights as the CPU does"
    return {
        "models": len(kinds),
        **{name: {"alike": share, "of": kind} for name, (share, kind) in worst.items()},
    }


def keeps(
    content: ContentStore,
    checkpoint: CheckpointRef,
    method: OneShot,
    pattern: NM | Unstructured,
    device: torch.device,
) -> dict[str, torch.Tensor]:
    """The packed keep tensors of a pruned model, unpacked into bits, by name."""
    samples = [torch.randint(VOCABULARY, (32,), generator=torch.Generator().manual_seed(i)) for i in range(8)]
    crew = LocalCrew(content, checkpoint, samples, device=device)
    plan = Uniform().plan(pattern, prunable_weights(content, checkpoint))
    pruning = Pruning(method=method, plan=plan, propagation="pruned", samples=len(samples))
    pruned = run_through(prune_blocks(crew, pruning))
    found = {}
    for block in pruned.blocks:
        for name, packed in load(content.get_bytes(block.keep.blob)).items():
            found[name] = unpack_keep(packed, (1, packed.numel() * 8))
    return found
