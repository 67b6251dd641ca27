"""Changes a dense model so that it computes what a cut model must compute, as the reference of tests.

Nothing here slices a weight. Heads and FFN channels are zeroed before the linear that reads them, dropped
blocks return their input, and routers choose among the experts that stay. Norms and Gemma's factor on
embeddings, which depend on the number of hidden channels, are computed from the channels that stay.

Shape legend: B sequences, L tokens, H hidden size.
"""

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.models.bloom.modeling_bloom import _get_alibi_slopes

from pipeline.architecture.rows import row_for
from pipeline.structure.cut import BlockCut, Cut
from pipeline.structure.sizes import Sizes

AROUND_ONE = ("Gemma", "Qwen3Next", "Qwen3_5")  # types whose norms multiply by 1 + weight


def as_if_cut(model: PreTrainedModel, cut: Cut, sizes: Sizes) -> PreTrainedModel:
    """Changes the dense model in place, so that its logits are those of the cut model, and returns it."""
    row = row_for(model.config.model_type)
    blocks = model.get_submodule(row.blocks)
    assert isinstance(blocks, nn.ModuleList)
    if cut.hidden is not None:
        _only_hidden(model, blocks, torch.tensor(cut.hidden), sizes.hidden_size)
    staying = {one.block: one for one in cut.blocks}
    positions_by_head = model.config.model_type == "bloom" or getattr(model.config, "alibi", False)
    for number, block in enumerate(blocks):
        if number in staying:
            _only(block, staying[number], sizes)
            if positions_by_head and staying[number].heads is not None:
                _with_slopes_of_fewer(block, staying[number].heads, sizes.num_attention_heads)
        else:
            block.forward = _passes(in_tuple=row.in_tuple)
    return model


def _passes(*, in_tuple: bool) -> Callable[..., Any]:
    def forward(hidden: Tensor, *args: object, **kwargs: object) -> Tensor | tuple[Tensor]:
        return (hidden,) if in_tuple else hidden

    return forward


def _only(block: nn.Module, cut: BlockCut, sizes: Sizes) -> None:
    readers = {  # the linears that read heads and FFN channels, by their names in all model types
        "heads": ("o_proj", "self_attn.out_proj", "attn.c_proj", "dense"),
        "ffn": (
            *("mlp.down_proj", "fc2", "mlp.c_proj", "dense_4h_to_h"),
            *("mixer.down_proj", "feed_forward.down_proj", "shared_mlp.output_linear"),
        ),
        "shared_ffn": ("shared_expert.down_proj", "shared_experts.down_proj"),
    }
    for name, module in block.named_modules():
        if cut.heads is not None and name.endswith(readers["heads"]) and not name.startswith("linear_attn"):
            width = getattr(module, "in_features", sizes.num_attention_heads * sizes.head_dim)
            _zeroed_before(module, _wide(cut.heads, width // sizes.num_attention_heads))
        if cut.shared_ffn is not None and name.endswith(readers["shared_ffn"]):
            _zeroed_before(module, cut.shared_ffn)
        elif cut.ffn is not None and name.endswith(readers["ffn"]):
            _zeroed_before(module, cut.ffn)
        if name in ("mlp.gate", "mlp.router", "mixer.gate") and cut.experts is not None:
            _routed_among(module, torch.tensor(cut.experts))
        if name == "feed_forward.router" and cut.experts is not None:
            _scored_among(module, torch.tensor(cut.experts))
        if name in ("mlp.experts", "mixer.experts"):
            for expert, places in cut.expert_ffn.items():
                down_HF = module.down_proj[expert]
                down_HF = down_HF.t() if getattr(module, "is_transposed", False) else down_HF
                gone = torch.ones(down_HF.shape[1], dtype=torch.bool)
                gone[list(places)] = False
                with torch.no_grad():
                    down_HF[:, gone] = 0


def _wide(heads: tuple[int, ...], head_dim: int) -> tuple[int, ...]:
    return tuple(head * head_dim + i for head in heads for i in range(head_dim))


def _zeroed_before(module: nn.Module, places: tuple[int, ...]) -> None:
    def hook(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        stays = torch.zeros(args[0].shape[-1])
        stays[list(places)] = 1
        return (args[0] * stays, *args[1:])

    module.register_forward_pre_hook(hook)


def _with_slopes_of_fewer(block: nn.Module, heads: tuple[int, ...], every: int) -> None:
    """Scale ALiBi's biases, because slopes follow from the number of heads and a head's place among them.
    Masked positions have the most negative number, and keep it."""
    ratios = torch.ones(every)
    cpu = torch.device("cpu")
    ratios[list(heads)] = _get_alibi_slopes(len(heads), cpu) / _get_alibi_slopes(every, cpu)[list(heads)]

    def hook(_: nn.Module, args: tuple[object, ...], kwargs: dict[str, Any]) -> tuple[object, dict[str, Any]]:
        changed = dict(kwargs)
        for name in ("alibi", "attention_mask"):
            bias = kwargs.get(name)
            if isinstance(bias, Tensor) and bias.is_floating_point():
                by_head = bias if bias.dim() == 4 else bias.unflatten(0, (-1, every))  # B, heads, ...
                if by_head.shape[1] != every:
                    continue  # it is one mask for all heads, and the slopes are in another argument
                scaled = by_head * ratios.view(1, every, 1, 1)
                hidden = by_head <= torch.finfo(bias.dtype).min / 2
                changed[name] = torch.where(hidden, by_head, scaled).reshape(bias.shape)
        return args, changed

    block.register_forward_pre_hook(hook, with_kwargs=True)


def _only_hidden(model: PreTrainedModel, blocks: nn.ModuleList, stays_H: Tensor, hidden: int) -> None:
    """Zero the hidden channels that go where the residual stream begins, and compute norms over the others.
    That is enough, because every reader of the stream reads it through a norm, or after one."""
    mask_H = torch.zeros(hidden)
    mask_H[stays_H] = 1
    if model.config.model_type.startswith("gemma"):  # embeddings are multiplied by the root of hidden_size
        mask_H *= math.sqrt(len(stays_H) / hidden)

    def masked(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (args[0] * mask_H, *args[1:])

    blocks[0].register_forward_pre_hook(masked)
    for name, module in model.named_modules():
        if name == "model.per_layer_model_projection":  # Gemma 4 reads the embeddings a second time
            module.register_forward_pre_hook(masked)
            model.model.per_layer_model_projection_scale = len(stays_H) ** -0.5
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if "self_attn." in name or "linear_attn." in name or "Gated" in type(module).__name__:
            continue  # their norms are of queries and keys, or of a state space
        if "Norm" in type(module).__name__ and weight is not None and weight.shape == (hidden,):
            module.forward = _norm_over(module, stays_H)


def _scored_among(router: nn.Module, stays_E: Tensor) -> None:
    """Score as if there were no other experts: theirs are zero."""
    fewer = copy.deepcopy(router)
    fewer.weight = nn.Parameter(router.weight[stays_E])
    fewer.top_k = min(fewer.top_k, len(stays_E))

    def forward(hidden: Tensor) -> tuple[Tensor, Tensor]:
        scores, logits = fewer(hidden)
        return torch.zeros(len(scores), len(router.weight)).index_copy(1, stays_E, scores), logits

    router.forward = forward


def _routed_among(router: nn.Module, stays_E: Tensor) -> None:
    """Route as if there were no other experts, and return experts by their old numbers."""
    fewer = copy.deepcopy(router)
    fewer.weight = nn.Parameter(router.weight[stays_E])
    for name in ("bias", "e_score_correction_bias"):
        held = getattr(router, name, None)
        if isinstance(held, Tensor):
            own = held[stays_E]
            setattr(fewer, name, nn.Parameter(own) if isinstance(held, nn.Parameter) else own)
    for name in ("num_experts", "num_local_experts"):
        if hasattr(fewer, name):
            setattr(fewer, name, len(stays_E))
    if hasattr(fewer, "top_k"):
        fewer.top_k = min(fewer.top_k, len(stays_E))

    def forward(hidden: Tensor, *corrections: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits, scores, numbers = fewer(hidden, *(one[stays_E] for one in corrections))
        return logits, scores, stays_E[numbers]

    router.forward = forward


def _norm_over(module: nn.Module, stays_H: Tensor) -> Callable[[Tensor], Tensor]:
    """A forward function that applies the norm's formula to the channels that stay, with zeros elsewhere."""
    kind = type(module).__name__
    epsilon = getattr(module, "variance_epsilon", None) or getattr(module, "eps", 0.0)

    def forward(hidden_BLH: Tensor) -> Tensor:
        kept = hidden_BLH[..., stays_H]
        weight = module.weight[stays_H]
        if "LayerNorm" in kind:
            mean = kept.mean(-1, keepdim=True)
            variance = (kept - mean).pow(2).mean(-1, keepdim=True)
            weight = 1 + weight if kind.endswith("1P") else weight
            kept = (kept - mean) / torch.sqrt(variance + epsilon) * weight
            bias = getattr(module, "bias", None)
            kept = kept if bias is None else kept + bias[stays_H]
        else:
            root = torch.rsqrt(kept.pow(2).mean(-1, keepdim=True) + epsilon)
            around_one = kind.startswith(AROUND_ONE) and not kind.startswith("Gemma4")
            kept = kept * root * (1 + weight if around_one else weight)
        output = torch.zeros_like(hidden_BLH)
        output[..., stays_H] = kept
        return output

    return forward
