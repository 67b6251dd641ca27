"""The model that is trained: it is loaded, wrapped, guarded, and at the end stored as a checkpoint."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from torch import Tensor, nn
from transformers import PreTrainedModel

from pipeline.artifacts.artifact import FileRef
from pipeline.artifacts.certificate import Check
from pipeline.artifacts.curve import MaskRecord
from pipeline.artifacts.refs import AdapterRef, ArtifactRef
from pipeline.checkpoint.keeps import keep_ref
from pipeline.checkpoint.language_model import wrapper_of
from pipeline.dag.stages.training import Recover
from pipeline.errors import InvalidSpec
from pipeline.resolve.training_activations import is_fused
from pipeline.spec.recovery import EarlyStop, KeepRule, Lora, Recovery
from pipeline.spec.training_recipe import TrainingRecipe
from pipeline.tensor.dtypes import TORCH_DTYPES
from workers.training import ranks
from workers.training.certified import certified, check_digests
from workers.training.config import teacher_config
from workers.training.engine import Engine, Teacher
from workers.training.guard import Guard
from workers.training.heads import HiddenHead, LossHead
from workers.training.held import AllKept, StartingKeeps, keep_of_parameter
from workers.training.lora import BASE, adapter_files, apply_lora
from workers.training.model import load_model, load_student
from workers.training.shares import by_shares, checkpoint_of, parts_of
from workers.training.stored import Stored
from workers.training.storing import Storing
from workers.training.work import Work


class Trainee(Protocol):
    """The model that the training loop trains."""

    @property
    def engine(self) -> Engine:
        """The engine that runs the model."""
        ...

    @property
    def guard(self) -> Guard | None:
        """The guard of the model's zeros; None where none are held."""
        ...

    @property
    def keep_rule(self) -> KeepRule:
        """The rule by which zeros move, if they do."""
        ...

    @property
    def early_stop(self) -> EarlyStop | None:
        """The rule by which training ends before its last step, if there is one."""
        ...

    @property
    def head(self) -> LossHead | None:
        """The head of the model, where it gives the loss: then the teacher's gives hidden states."""
        ...

    @property
    def teacher(self) -> Callable[..., Any] | None:
        """The model that the trainee learns from beside the text, if there is one."""
        ...

    def before(self, step: int) -> None:
        """Prepare for the forward passes of a step, counted from 0."""
        ...

    def rewarded(self, step: int) -> Tensor | float:
        """The amount that is taken off the loss of the last forward pass."""
        ...

    @contextmanager
    def as_stored(self) -> Iterator[None]:
        """The model as it would be stored now, for validation."""
        ...

    def masks(self, step: int) -> MaskRecord | None:
        """The state of the masks after `step` steps, if masks are learned. All workers call it."""
        ...

    def store(self, *, step: int) -> Stored:
        """Store the weights as they are now. All workers call it and get the result."""
        ...

    def artifacts(self, stored: Stored, checks: Sequence[Check]) -> dict[str, ArtifactRef]:
        """The artifacts of the stored weights, certified. All workers call it."""
        ...


class Student:
    """See Trainee: a pruned model whose remaining weights are trained. `guard` is None where no trained
    weight has zeros to hold."""

    def __init__(self, work: Work, config: Mapping[str, object]) -> None:
        self._work = work
        self._content = work.settings.content()
        assert isinstance(work.stage, Recover)
        self._recovery = recovery = work.stage.recovery
        self.keep_rule = recovery.keep
        self.early_stop = recovery.early_stop
        loaded = load_student(work, recovery, config)
        model = loaded.model
        self._reader, self._stored, self._every_name = loaded.reader, loaded.stored, loaded.every_name
        self._keeps = self._starting_keeps()  # by checkpoint name
        self._lora = recovery.trains if isinstance(recovery.trains, Lora) else None
        if self._lora is not None:
            names, seed = loaded.names, recovery.text.seed
            model = apply_lora(model, self._lora, self._keeps, names=names, stored=loaded.stored, seed=seed)
        else:
            _choose_trained(model, recovery)
        self.engine = Engine(model, config, adam_arguments(recovery))
        held = [
            name
            for name, disks in self._stored.items()
            if name in self.engine.parameters and any(disk in self._keeps for disk in disks)
        ]
        self.guard = self._guard(held) if held else None
        self.teacher, self.head = self._taught(model)

    def before(self, step: int) -> None:
        """Nothing needs preparation: the optimizer alone changes weights."""

    def rewarded(self, step: int) -> Tensor | float:
        """Nothing is taken off the loss."""
        return 0.0

    @contextmanager
    def as_stored(self) -> Iterator[None]:
        """The model as it is trained, which is also how it would be stored."""
        yield

    def masks(self, step: int) -> MaskRecord | None:
        """Returns None: no masks are learned."""
        return None

    def store(self, *, step: int) -> Stored:
        """Store the weights as they are now, in the types of the checkpoint. All workers take part, each
        stores some of the blocks, and all get the result.

        Raises ZerosLost when a pruned weight is not zero in the collected tensors, and CorruptObject unless
        what is stored are the trained parameters, by their digests; both on all workers.
        """
        moving = self.guard if self.keep_rule.kind != "held" else None
        storing = Storing(
            self._work,
            self._reader,
            self.engine,
            stored=self._stored,
            keeps=self._keeps,
            moving=moving,
            lora=self._lora,
        )
        parts = parts_of(self._every_name, self._work.row.blocks)
        written = by_shares(parts, storing.collect, storing.write)
        checkpoint = checkpoint_of(self._content, self._work.checkpoint, [one.tensors for one in written])
        check_digests(self._content, checkpoint, [one.digests for one in written], trained=storing.trained)
        keep = self._work.keep
        if moving is not None:
            files = [one.keep for one in written if one.keep is not None]
            linears = [linear for one in written for linear in one.linears]
            keep = ranks.from_first(lambda: keep_ref(self._content, files, linears))
        held = sum(one.held for one in written)
        tensors = len(self._keeps)
        check = Check(at="gather", step=step, tensors=tensors, held=held, zeros=held) if tensors else None
        return Stored(step=step, checkpoint=checkpoint, keep=keep, adapter=self._adapter(), check=check)

    def artifacts(self, stored: Stored, checks: Sequence[Check]) -> dict[str, ArtifactRef]:
        """The checkpoint, its adapter if there is one, and its certificate."""
        certificate = certified(self._work, stored, checks=checks, held=self.keep_rule.kind == "held")
        adapter = {} if stored.adapter is None else {"adapter": stored.adapter}
        return {"checkpoint": stored.checkpoint, **adapter, **certificate}

    def _taught(self, model: PreTrainedModel) -> tuple[Teacher | None, LossHead | None]:
        """The teacher, if there is one, and the student's head, where logits are too large to stand whole."""
        work, precision = self._work, self._recovery.precision
        tokens = work.resources.micro_batch * self._recovery.text.sequence_length
        fused = is_fused(tokens=tokens, vocabulary=model.config.vocab_size)
        teacher, hidden = None, None
        if work.teacher is not None:
            config = None
            if work.resources.teacher != "whole":
                config = teacher_config(work.resources, workers=ranks.workers(), precision=precision)
            dtype, device = TORCH_DTYPES[precision], work.device
            loaded = load_model(self._content, work.teacher, dtype=dtype, device=device, partition=config)
            hidden = HiddenHead(loaded.model) if fused else None
            teacher = Teacher(loaded.model.eval(), config)
        return teacher, LossHead(model, hidden) if fused else None

    def _guard(self, held: Sequence[str]) -> Guard:
        """The guard of parameters that have keep tensors."""
        shapes = self.engine.shapes
        keeps = ((name, keep_of_parameter(self._stored[name], self._keeps, shapes[name])) for name in held)
        return Guard(self.engine, keeps, linears={name: len(self._stored[name]) for name in held})

    def _adapter(self) -> AdapterRef | None:
        """Store the adapter, if there is one. All workers call it."""
        lora = self._lora
        if lora is None:
            return None
        collected = {}
        for name in self.engine.parameters:
            shape = self.engine.shapes[name]
            whole = self.engine.collected(name, 0, math.prod(shape), 0)
            if whole is not None:
                collected[name] = whole.view(shape)

        wrapper = wrapper_of(self._reader.whole_config)
        module = BASE if wrapper is None else wrapper.module

        def put() -> AdapterRef:
            files = adapter_files(
                collected, lora, row=self._work.row, base_model=self._work.model_name, module=module
            )
            refs = [FileRef(path=path, blob=self._content.put_bytes(data)) for path, data in files.items()]
            return AdapterRef(files=tuple(sorted(refs, key=lambda file: file.path)))

        return ranks.from_first(put)

    def _starting_keeps(self) -> Mapping[str, Tensor]:
        if self._work.keep is not None:
            return StartingKeeps(self._content, self._work.checkpoint, self._work.keep)
        return AllKept(self._reader, self._work.row) if self.keep_rule.kind == "gradual" else {}


def adam_arguments(recipe: TrainingRecipe) -> dict[str, object]:
    """The arguments of torch's AdamW."""
    optimizer = recipe.optimizer
    return {
        "lr": recipe.learning_rate.peak,
        "betas": optimizer.betas,
        "eps": optimizer.epsilon,
        "weight_decay": optimizer.weight_decay,
        "fused": True,
    }


def _choose_trained(model: nn.Module, recovery: Recovery) -> None:
    vectors = recovery.trains.kind == "norms_and_biases"
    chosen = [p for p in model.parameters() if not vectors or len(getattr(p, "ds_shape", p.shape)) == 1]
    if not chosen:
        raise InvalidSpec("the model has neither norms with weights nor biases", "spec.recovery.trains.kind")
    for parameter in chosen:
        parameter.requires_grad_(True)
