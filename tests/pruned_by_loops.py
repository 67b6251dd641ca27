"""Wanda as a loop over the whole model in transformers, as the reference of walks over single blocks."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from pipeline.architecture.rows import row_for
from pipeline.spec.patterns import Unstructured
from tests import oracles, other_experts

HALF = Unstructured(sparsity=0.5, comparison_group="row")


def whole_model(directory: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()


def pruned_by_loops(model: PreTrainedModel, kind: str, sequences: list[Tensor]) -> dict[str, Tensor]:
    """Wanda on the whole model, block after block, each measured with the blocks before it pruned."""
    row = row_for(kind)
    keeps = {}
    for number, block in enumerate(model.get_submodule(row.blocks)):
        inside = dict(block.named_modules())
        linears = {name: inside[name] for name in row.linear_names if hasattr(inside.get(name), "weight")}
        inputs = inputs_of(model, linears, sequences)
        weights = {name: one.weight.t() if row.transposed else one.weight for name, one in linears.items()}
        if "mlp.experts" in inside:
            experts = inside["mlp.experts"]
            matrices, routed = matrices_of(experts, kind), inputs_of_experts(model, experts, kind, sequences)
            weights, inputs = weights | matrices, inputs | routed
        for place in other_experts.PLACES:
            if place in inside:
                weights |= other_experts.matrices_of(place, inside[place])
                inputs |= other_experts.inputs_of(place, model, inside[place], sequences)
        for name, weight in weights.items():
            norm_I = norms(inputs[name])
            if ".experts." in name and sum(len(x_TI) for x_TI in inputs[name]) < 32:
                norm_I = np.ones_like(norm_I)
            saliency = oracles.wanda_saliency(weight.numpy(), norm_I)
            keep = torch.from_numpy(oracles.keep_rows_exact(saliency, HALF.sparsity))
            weight.masked_fill_(~keep, 0)
            keeps[f"{row.blocks}.{number}.{name}.weight"] = keep
    return keeps


def matrices_of(experts: nn.Module, kind: str) -> dict[str, Tensor]:
    """Views of what the module holds fused, by stored names inside the block."""
    found = {}
    if kind == "gpt_oss":
        for e, (gate_up, down) in enumerate(zip(experts.gate_up_proj, experts.down_proj, strict=True)):
            found[expert_name(kind, e, "gate_up")] = gate_up.t()
            found[expert_name(kind, e, "down")] = down.t()
        return found
    for e, (gate_up, down) in enumerate(zip(experts.gate_up_proj, experts.down_proj, strict=True)):
        half = len(gate_up) // 2
        for which, matrix in {"gate": gate_up[:half], "up": gate_up[half:], "down": down}.items():
            found[expert_name(kind, e, which)] = matrix
    return found


def inputs_of_experts(
    model: PreTrainedModel, experts: nn.Module, kind: str, sequences: list[Tensor]
) -> dict[str, list[np.ndarray]]:
    """Of each sequence what each matrix of each expert sees, token by token, [T, I]."""
    matrices = matrices_of(experts, kind)
    inputs: dict[str, list[np.ndarray]] = {name: [] for name in matrices}

    def hook(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        x_TH, chosen_TK = args[:2]
        for e in range(len(experts.down_proj)):
            *entering, down = (name for name in matrices if f".experts.{e}." in name)
            outer, inner = [np.zeros((0, x_TH.shape[1]))], [np.zeros((0, matrices[down].shape[1]))]
            for x_H, chosen_K in zip(x_TH, chosen_TK.tolist(), strict=True):
                if e in chosen_K:
                    outer.append(x_H[None].numpy())
                    inner.append(
                        inner_of(experts, [matrices[name] @ x_H for name in entering], e)[None].numpy()
                    )
            for name in entering:
                inputs[name].append(np.concatenate(outer))
            inputs[down].append(np.concatenate(inner))

    handle = experts.register_forward_pre_hook(hook)
    for tokens in sequences:
        model(input_ids=tokens[None], use_cache=False)
    handle.remove()
    return inputs


def inner_of(experts: nn.Module, opened: list[Tensor], expert: int) -> Tensor:
    """What the last matrix of an expert sees of one token. `opened`: what the first ones make of it."""
    if len(opened) == 2:
        gate, up = opened
        return gate * torch.sigmoid(gate) * up
    gate, up = (opened[0] + experts.gate_up_proj_bias[expert]).unflatten(0, (-1, 2)).unbind(1)
    gate, up = gate.clamp(max=experts.limit), up.clamp(-experts.limit, experts.limit)
    return gate * torch.sigmoid(experts.alpha * gate) * (up + 1)


def expert_name(kind: str, expert: int, which: str) -> str:
    if kind in ("mixtral", "minimax_m2"):
        which = {"gate": "w1", "up": "w3", "down": "w2"}[which]
        return f"block_sparse_moe.experts.{expert}.{which}"
    return f"mlp.experts.{expert}.{which}_proj"


def inputs_of(
    model: PreTrainedModel, linears: dict[str, nn.Module], sequences: list[Tensor]
) -> dict[str, list[np.ndarray]]:
    """What each linear sees of each sequence, [T, I]."""
    inputs: dict[str, list[np.ndarray]] = {name: [] for name in linears}
    hooks = [
        module.register_forward_pre_hook(
            lambda _, args, name=name: inputs[name].append(args[0].flatten(0, -2).numpy().copy())
        )
        for name, module in linears.items()
    ]
    for tokens in sequences:
        model(input_ids=tokens[None], use_cache=False)
    for hook in hooks:
        hook.remove()
    return inputs


def norms(samples: list[np.ndarray]) -> np.ndarray:
    """oracles.input_norm, faster."""
    return np.sqrt(np.mean([np.square(x.astype(np.float64)).sum(axis=0) for x in samples], axis=0))
