"""The loss of a micro-batch: the student's forward pass, the teacher's, and the objective over both.

Shapes: B sequences of a micro-batch, L tokens, V vocabulary.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import CausalLMOutput

from pipeline.spec.training_recipe import Distillation, LanguageModelling, Objective
from pipeline.tensor.divergence import hidden_loss, matching_blocks, objective_loss
from workers.training import ranks
from workers.training.engine import Engine
from workers.training.heads import LossHead


class Losses:
    """Computes the losses of a student, with its teacher if there is one, under an objective."""

    def __init__(
        self,
        engine: Engine,
        teacher: Callable[..., Any] | None,
        objective: Objective,
        head: LossHead | None = None,
    ) -> None:
        """`head`: the student's head, where it gives losses, and the teacher's gives hidden states."""
        self._engine = engine
        self._teacher = teacher
        self._objective = objective
        self._head = head
        self._hidden = isinstance(objective, Distillation) and objective.hidden_weight > 0

    def training(self, tokens_BL: Tensor) -> tuple[Tensor, Tensor]:
        """The loss to minimise, with gradients, and the mean cross-entropy in it; both in nats."""
        asked = {"use_cache": False, "output_hidden_states": self._hidden}
        taught: CausalLMOutput | None = None
        if self._teacher is not None:
            taught = self._teacher(input_ids=tokens_BL, **asked)
        if self._head is not None:
            self._head.ask(self._objective, tokens_BL, None if taught is None else taught.logits)
        output: CausalLMOutput = self._engine.forward(input_ids=tokens_BL, **asked)
        ours: Sequence[Tensor] = ()
        theirs: Sequence[Tensor] = ()
        if self._hidden and taught is not None:
            ours, all_theirs = output.hidden_states[1:], taught.hidden_states[1:]
            theirs = [all_theirs[block] for block in matching_blocks(len(ours), len(all_theirs))]
        if self._head is not None:
            loss, lm_loss = output.logits.unbind()
            return loss + hidden_loss(self._objective, ours, theirs), lm_loss
        return objective_loss(
            self._objective,
            output.logits,
            tokens_BL,
            teacher_logits_BLV=None if taught is None else taught.logits,
            student_hiddens=ours,
            teacher_hiddens=theirs,
        )

    def validation(self, tokens_VL: Tensor, *, micro_batch_size: int) -> float:
        """The mean cross-entropy over the held-out sequences, which are split over the workers."""
        held_out = len(tokens_VL)
        each = -(-held_out // ranks.workers())
        first = ranks.rank() * each
        total = 0.0
        for start in range(first, first + each, micro_batch_size):
            rows = range(start, min(start + micro_batch_size, first + each))
            real = [row for row in rows if row < held_out]
            # A leftover slot takes sequence 0 with weight 0, so that every worker joins ZeRO 3's collectives.
            tokens_BL = tokens_VL[real or [0]].to(self._engine.device)
            total += self._entropy(tokens_BL) * len(real)
        return ranks.summed([total], self._engine.device)[0] / held_out

    @torch.no_grad()
    def _entropy(self, tokens_BL: Tensor) -> float:
        """The mean cross-entropy of some sequences."""
        if self._head is not None:
            self._head.ask(LanguageModelling(), tokens_BL)
        given = self._engine.module(input_ids=tokens_BL, use_cache=False).logits
        if self._head is not None:
            return float(given[0])
        return float(objective_loss(LanguageModelling(), given, tokens_BL)[0])
