"""The student whose masks are learned on frozen weights, as the training loop trains and stores it.

Shape legend: O out_features, I in_features, G groups, C candidates.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from pipeline.artifacts.certificate import Check
from pipeline.artifacts.curve import BlockMasks, MaskRecord
from pipeline.artifacts.refs import ArtifactRef
from pipeline.checkpoint.assemble import StoredTensors
from pipeline.checkpoint.keeps import put_keep, turned
from pipeline.checkpoint.writer import put_tensors
from pipeline.dag.stages.training import LearnMasks
from pipeline.resolve.model_checks import check_masks_learnable
from pipeline.spec.recovery import EarlyStop, Held, KeepRule
from pipeline.tensor.soft_masks import (
    Likelihood,
    chosen,
    chosen_codes,
    likelihood,
)
from workers.training import ranks
from workers.training.certified import certified, kept_as_they_were
from workers.training.engine import Engine
from workers.training.first_masks import FirstMasks
from workers.training.guard import Guard
from workers.training.heads import LossHead
from workers.training.masked import LOGITS, draw_at, prunable, put_masks, stored_weight
from workers.training.model import load_student
from workers.training.shares import by_shares, checkpoint_of, parts_of
from workers.training.stored import Stored
from workers.training.student import adam_arguments
from workers.training.work import Work


class MaskStudent:
    """See Trainee. Its teacher is the model itself without masks, so that memory holds the weights once."""

    guard: Guard | None = None
    head: LossHead | None = None
    keep_rule: KeepRule = Held()
    early_stop: EarlyStop | None = None

    def __init__(self, work: Work, config: Mapping[str, object]) -> None:
        assert isinstance(work.stage, LearnMasks)
        self._work = work
        self._training = training = work.stage.training
        self._content = work.settings.content()
        self._begin = FirstMasks(work)
        check_masks_learnable(work.row.model_type, "spec.prune.method.kind")
        loaded = load_student(work, training, config)
        self._reader, self._names, self._every_name = loaded.reader, loaded.names, loaded.every_name
        self._prunable = dict(prunable(self._names, work.row.blocks, work.row.linear_names))
        self._masked = put_masks(loaded.model, training, self._begin, names=self._names)
        self.engine = Engine(loaded.model, config, adam_arguments(training))
        self.teacher = self._unmasked if training.needs_teacher else None
        self._first: dict[str, Tensor] = {}  # on rank 0: each group's first mask
        if ranks.rank() == 0:
            for name, block in self._prunable.items():
                self._first[name] = chosen_codes(self._begin.logits(self._names[name], block)).cpu()

    def before(self, step: int) -> None:
        """Draw new masks, the same on every worker."""
        self._masked.draw(step)

    def rewarded(self, step: int) -> Tensor | float:
        """The amount that `MaskTraining.weight_reward` takes off the loss."""
        return self._masked.reward(step)

    @contextmanager
    def as_stored(self) -> Iterator[None]:
        """The model under its likeliest masks."""
        self._masked.take("likeliest")
        yield

    def masks(self, step: int) -> MaskRecord | None:
        """The entropy, certainty and change of the masks per block, from the master logits."""
        scale, temperature = draw_at(self._training, max(step - 1, 0))
        found: dict[int, list[tuple[Likelihood, int]]] = {}
        for name, block in self._prunable.items():
            logits_CG = self._logits(name)  # a collective: every worker takes part
            if ranks.rank() == 0:
                changed = int((chosen_codes(logits_CG).cpu() != self._first[name]).sum())
                found.setdefault(block, []).append((likelihood(logits_CG, scale), changed))
        return MaskRecord(
            step=step,
            temperature=temperature,
            scale=scale,
            blocks=tuple(of_block(found[block]) for block in sorted(found)),
        )

    def store(self, *, step: int) -> Stored:
        """Store the dense weights under the likeliest masks, and the masks."""
        keeps: dict[str, Tensor] = {}
        for name, block in self._prunable.items():
            disk = self._names[name]
            keep_OI = chosen(self._logits(name), self._begin.candidates(block), self._begin.shape(disk))
            keeps[disk] = turned(keep_OI.cpu(), self._work.row).contiguous()

        def write(number: int, part: Mapping[str, None]) -> tuple[StoredTensors, int]:
            tensors = {disk: self._reader.tensor(disk) for disk in part}
            masked = {disk: stored_weight(tensors[disk], keeps[disk]) for disk in part if disk in keeps}
            put = put_tensors(self._content, "part.safetensors", {**tensors, **masked})
            return StoredTensors.of(put), sum(int((~keeps[disk]).sum()) for disk in masked)

        parts = parts_of(self._every_name, self._work.row.blocks)
        written = by_shares(parts, lambda disk, worker: None, write)
        checkpoint = checkpoint_of(self._content, self._work.checkpoint, [tensors for tensors, _ in written])
        held = sum(count for _, count in written)
        keep = ranks.from_first(lambda: put_keep(self._content, checkpoint, keeps))
        check = Check(at="gather", step=step, tensors=len(keeps), held=held, zeros=held)
        return Stored(step=step, checkpoint=checkpoint, keep=keep, check=check)

    def artifacts(self, stored: Stored, checks: Sequence[Check]) -> dict[str, ArtifactRef]:
        """Read the stored weights back and certify zeros, whole groups and unchanged kept weights."""
        assert stored.keep is not None
        same = kept_as_they_were(self._content, self._work.checkpoint, stored)
        return {"checkpoint": stored.checkpoint, **certified(self._work, stored, checks=(*checks, same))}

    def _unmasked(self, **inputs: object) -> Any:
        with torch.no_grad():
            self._masked.take("none")
            output = self.engine.module(**inputs)
            self._masked.take("drawn")
            return output

    def _logits(self, name: str) -> Tensor:
        return self.engine.full(name.removesuffix(".weight") + LOGITS)


def of_block(linears: Sequence[tuple[Likelihood, int]]) -> BlockMasks:
    """Average the likelihoods of a block's linears by their groups. Each comes with the number of its groups
    whose mask has changed."""
    groups = sum(one.groups for one, _ in linears)
    return BlockMasks(
        entropy=sum(one.entropy * one.groups for one, _ in linears) / groups,
        certainty=sum(one.certainty * one.groups for one, _ in linears) / groups,
        changed=sum(changed for _, changed in linears) / groups,
    )
