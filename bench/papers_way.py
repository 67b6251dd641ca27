"""Wanda and OWL as the papers' code works, in plain transformers: the reference for time, memory and masks.

The whole model is in memory, and one sample passes through at a time. Every block runs twice: once to be
measured, once to compute the next block's inputs; OWL adds a dense sweep that does the same. sparsify.py runs
this file as a process of its own, which prints one line of JSON.

Shape legend: N samples, L tokens, O out_features, I in_features.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from workers.memory import peak_memory_bytes, reset_peak_memory


class Inputs:
    """The mean over samples of the squared norms of a linear's inputs. It is summed in float64: rounding
    errors of a running mean in float32 would decide a few close comparisons in a million, and each changes
    later blocks."""

    def __init__(self, linear: nn.Linear) -> None:
        self._sum_I = torch.zeros(linear.in_features, dtype=torch.float64)
        self._samples = 0

    def norm(self) -> Tensor:
        """The root of the mean, [I]."""
        return (self._sum_I / self._samples).sqrt().float()

    def add(self, x_1LI: Tensor) -> None:
        """Add one sample."""
        x_LI = x_1LI.reshape(-1, x_1LI.shape[-1]).float()
        self._samples += 1
        self._sum_I += x_LI.square().sum(dim=0)


def main() -> None:
    """Prune and print the figures. `--multiplier` and `--spread` choose OWL."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--samples", type=Path, required=True, help="safetensors with int64 tokens [N, L]")
    parser.add_argument("--sparsity", type=float, required=True)
    parser.add_argument("--multiplier", type=float)
    parser.add_argument("--spread", type=float, default=0.08)
    parser.add_argument("--out", type=Path, required=True, help="keep tensors, by weight")
    arguments = parser.parse_args()
    torch.set_grad_enabled(False)
    reset_peak_memory()
    idle = peak_memory_bytes()
    started = time.monotonic()
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32).eval()
    model.config.use_cache = False
    samples_NL = load_file(arguments.samples)["tokens"]
    sparsity = [arguments.sparsity] * len(model.model.layers)
    if arguments.multiplier is not None:
        ratios = outlier_ratios(model, samples_NL, arguments.multiplier)
        sparsity = owl(ratios, arguments.sparsity, arguments.spread)
    keep = prune(model, samples_NL, sparsity)
    seconds = time.monotonic() - started
    figures = {"seconds": seconds, "peak": peak_memory_bytes(), "idle": idle}
    save_file({name: one.to(torch.uint8) for name, one in keep.items()}, arguments.out)
    print(json.dumps(figures))


def prune(model: nn.Module, samples_NL: Tensor, sparsity: list[float]) -> dict[str, Tensor]:
    """Prune by Wanda, block by block on the outputs of the pruned blocks. Returns keep tensors by weight."""
    keep = {}
    inputs, call = first_inputs(model, samples_NL)
    for b, block in enumerate(model.model.layers):
        linears, found = measured(block, inputs, call)
        for name, linear in linears.items():
            saliency_OI = linear.weight.abs() * found[name].norm()
            order_OI = saliency_OI.sort(dim=-1, stable=True)[1]
            pruned_OI = order_OI[:, : int(linear.in_features * sparsity[b])]
            keep_OI = torch.ones_like(saliency_OI, dtype=torch.bool).scatter_(1, pruned_OI, value=False)
            linear.weight[~keep_OI] = 0
            keep[f"model.layers.{b}.{name}.weight"] = keep_OI
        inputs = [block(x, **call) for x in inputs]
    return keep


def outlier_ratios(model: nn.Module, samples_NL: Tensor, multiplier: float) -> list[float]:
    """The percentage of each block's saliencies above `multiplier` times their mean, in a dense sweep."""
    ratios = []
    inputs, call = first_inputs(model, samples_NL)
    for block in model.model.layers:
        linears, found = measured(block, inputs, call)
        saliencies = torch.cat(
            [(linear.weight.abs() * found[name].norm()).flatten() for name, linear in linears.items()]
        )
        outlying = (saliencies > saliencies.mean() * multiplier).sum().item()
        ratios.append(outlying / saliencies.numel() * 100)
        inputs = [block(x, **call) for x in inputs]
    return ratios


def owl(ratios: list[float], sparsity: float, spread: float) -> list[float]:
    """OWL's sparsity per block."""
    low, high = min(ratios), max(ratios)
    density = [(ratio - low) * (1 / (high - low) * spread * 2) for ratio in ratios]
    mean = sum(density) / len(density)
    return [1 - (one - mean + (1 - sparsity)) for one in density]


def measured(
    block: nn.Module, inputs: list[Tensor], call: dict[str, object]
) -> tuple[dict[str, nn.Linear], dict[str, Inputs]]:
    """Run the block on every sample, and measure the inputs of all linears."""
    linears = {name: module for name, module in block.named_modules() if isinstance(module, nn.Linear)}
    found = {name: Inputs(linear) for name, linear in linears.items()}
    hooks = [
        linear.register_forward_hook(lambda _, args, __, one=found[name]: one.add(args[0]))
        for name, linear in linears.items()
    ]
    for x in inputs:
        block(x, **call)
    for hook in hooks:
        hook.remove()
    return linears, found


def first_inputs(model: nn.Module, samples_NL: Tensor) -> tuple[list[Tensor], dict[str, object]]:
    """The inputs of block 0, and the keyword arguments that blocks are called with."""
    inputs: list[Tensor] = []
    call: dict[str, object] = {}

    class Caught(Exception):
        """Ends a forward at block 0."""

    def catch(_: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, object]) -> None:
        inputs.append(args[0])
        call.update(kwargs)
        raise Caught

    hook = model.model.layers[0].register_forward_pre_hook(catch, with_kwargs=True)
    for tokens_L in samples_NL:
        try:
            model(input_ids=tokens_L[None])
        except Caught:
            continue
    hook.remove()
    return inputs, call


if __name__ == "__main__":
    main()
