"""Linears whose masks are learned: the weight is frozen, and each group of its inputs draws a mask.

    y = x · (W under the mask)ᵀ + b

A linear draws masks in training, takes its likeliest masks in validation, and takes none when it is its own
teacher. Its logits are an ordinary parameter, so that ZeRO partitions them; nothing else is trained.

Shape legend: O out_features, I in_features, M weights of a group, G groups, C candidates. Conv1D of GPT-2
stores [I, O].
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from pipeline.architecture.rows import row_for
from pipeline.spec.mask_training import MaskTraining
from pipeline.tensor.soft_masks import Draw, chosen, key_of, masked_weight

Masks = Literal["drawn", "likeliest", "none"]
LOGITS = ".logits"


class Beginning(Protocol):
    """The candidate masks and the logits that learning starts from."""

    def candidates(self, block: int) -> Tensor:
        """The candidate masks of a block's groups, bool [C, M]."""
        ...

    def logits(self, name: str, block: int) -> Tensor:
        """The first logits of a weight by its checkpoint name, float32 [C, G]."""
        ...


class MaskedLinear(nn.Module):
    """Replaces a Linear or Conv1D and takes over its parameters, frozen. `squares`: the sum of the squared
    weights under the mask drawn last."""

    candidates_CM: Tensor

    def __init__(
        self, base: nn.Module, logits_CG: Tensor, candidates_CM: Tensor, *, transposed: bool
    ) -> None:
        super().__init__()
        weight, bias = base.weight, base.bias
        assert isinstance(weight, nn.Parameter)
        assert bias is None or isinstance(bias, nn.Parameter)
        self.weight, self.bias = weight, bias
        self.logits = nn.Parameter(logits_CG)
        self.register_buffer("candidates_CM", candidates_CM.to(logits_CG.device), persistent=False)
        self._transposed = transposed
        self.masks: Masks = "likeliest"
        self.draw: Draw | None = None
        self.squares: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """[..., I] → [..., O]."""
        weight_OI = self.weight.t() if self._transposed else self.weight
        if self.masks == "drawn":
            assert self.draw is not None, "a draw is set before each step"
            weight_OI, self.squares = masked_weight(weight_OI, self.logits, self.candidates_CM, self.draw)
        elif self.masks == "likeliest":
            weight_OI = weight_OI * chosen(
                self.logits.detach(), self.candidates_CM, (weight_OI.shape[0], weight_OI.shape[1])
            )
        return functional.linear(x, weight_OI, self.bias)


class MaskedModel:
    """The masked linears of a model, which always use the same kind of masks."""

    def __init__(self, linears: Mapping[str, MaskedLinear], training: MaskTraining) -> None:
        self._linears = dict(linears)
        self._training = training

    def take(self, masks: Masks) -> None:
        """Choose the masks that forward passes use from now on."""
        for linear in self._linears.values():
            linear.masks = masks

    def draw(self, step: int) -> None:
        """Use the draws of step `step` from now on, counted from 0: the same on every worker."""
        scale, temperature = draw_at(self._training, step)
        for name, linear in self._linears.items():
            linear.draw = Draw(scale, temperature, key_of(self._training.text.seed, step, name))
        self.take("drawn")

    def reward(self, step: int) -> Tensor | float:
        """The amount by which the loss of a forward pass is lowered: see MaskTraining."""
        rate = self._training.weight_reward * (1 - step / self._training.total_steps)
        if rate == 0:
            return 0.0
        return rate * sum(one.squares for one in self._linears.values() if one.squares is not None)


def draw_at(training: MaskTraining, step: int) -> tuple[float, float]:
    """The scale and temperature of a step, counted from 0."""
    steps = training.total_steps
    return training.scale.at(step, steps=steps), training.temperature.at(step, steps=steps)


def put_masks(
    model: PreTrainedModel,
    training: MaskTraining,
    begin: Beginning,
    *,
    names: Mapping[str, str],
) -> MaskedModel:
    """Replace the prunable linears of `model` by masked ones, and freeze everything but their logits.

    `begin` gives the first logits, `names` maps parameters to checkpoint names. Weights may be partitioned
    already.
    """
    row = row_for(model.config.model_type)
    model.requires_grad_(False)
    linears = {}
    for name, block in prunable(names, row.blocks, row.linear_names):
        path = name.removesuffix(".weight")
        base = model.get_submodule(path)
        logits = begin.logits(names[name], block).to(base.weight.device, base.weight.dtype)
        parent, _, leaf = path.rpartition(".")
        linears[path] = MaskedLinear(base, logits, begin.candidates(block), transposed=row.transposed)
        setattr(model.get_submodule(parent), leaf, linears[path])
    return MaskedModel(linears, training)


def prunable(names: Mapping[str, str], blocks: str, linear_names: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Yield the parameters that are prunable weights, each with its block."""
    weights = {f"{linear}.weight" for linear in linear_names}
    for name in names:
        if not name.startswith(f"{blocks}."):
            continue
        block, _, inside = name.removeprefix(f"{blocks}.").partition(".")
        if inside in weights:
            yield name, int(block)


def stored_weight(dense: Tensor, keep: Tensor) -> Tensor:
    """The dense weights, to the bit, where they are kept, and +0 elsewhere; in the orientation of storage."""
    return torch.where(keep, dense, torch.zeros((), dtype=dense.dtype))
