"""Output heads that give a loss, or hidden states, in the place of logits.

A head is changed where it is, so that ZeRO 3 makes its weights whole for it as for any module. The model's
own code runs as before, and hands on in `logits` what the head gives.

Shapes: B sequences, L tokens, H hidden size.
"""

from collections.abc import Callable
from contextlib import ExitStack

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from pipeline.spec.training_recipe import Objective
from pipeline.tensor.divergence import targets_of
from pipeline.tensor.fused_loss import Output, fused_loss
from workers.training.engine import whole_parameter

CAP = "final_logit_softcapping"  # a field of Gemma's configs: the model bounds its logits after the head


class _Head:
    """The head of a model, whose forward pass is replaced by `gives`."""

    def __init__(self, model: PreTrainedModel, gives: Callable[[Tensor], Tensor]) -> None:
        head: object = model.get_output_embeddings()
        assert isinstance(head, nn.Linear), f"the head of {model.config.model_type} is a linear"
        assert getattr(head, "bias", None) is None, f"the head of {model.config.model_type} has no bias"
        self.cap: float | None = getattr(model.config, CAP, None)
        if self.cap is not None:
            setattr(model.config, CAP, None)  # else the model would bound what the head gives
        head.forward = gives  # type: ignore[method-assign, assignment]
        self._head: nn.Linear = head

    @property
    def weight(self) -> Tensor:
        """The output weights; whole in the head's forward pass."""
        return self._head.weight


class HiddenHead(_Head):
    """The head of a teacher, which gives its input: the last hidden states [B, L, H]."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__(model, lambda hidden_BLH: hidden_BLH)


class LossHead(_Head):
    """The head of a student, which gives the loss [2]: the one to minimise, and its mean cross-entropy."""

    def __init__(self, model: PreTrainedModel, teacher: HiddenHead | None) -> None:
        super().__init__(model, self._loss)
        self._teacher = teacher
        self._asked: tuple[Objective, Tensor, Tensor | None] | None = None

    def ask(self, objective: Objective, tokens_BL: Tensor, taught_BLH: Tensor | None = None) -> None:
        """Set what the next forward pass computes. `taught_BLH`: the teacher's last hidden states."""
        self._asked = (objective, targets_of(tokens_BL), taught_BLH)

    def _loss(self, hidden_BLH: Tensor) -> Tensor:
        assert self._asked is not None, "ask comes before each forward pass"
        (objective, targets_T, taught_BLH), self._asked = self._asked, None
        with ExitStack() as stack:
            teacher = None
            if taught_BLH is not None:
                assert self._teacher is not None
                stack.enter_context(whole_parameter(self._teacher.weight))
                teacher = Output(taught_BLH.flatten(0, 1), self._teacher.weight.detach(), self._teacher.cap)
            student = Output(hidden_BLH.flatten(0, 1), self.weight, self.cap)
            return torch.stack(fused_loss(objective, student, targets_T, teacher))
