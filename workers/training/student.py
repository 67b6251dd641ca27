"""The model that is trained: it is loaded, wrapped, guarded, and at the end stored as a checkpoint."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from pipeline.artifacts.artifact import FileRef
from pipeline.artifacts.certificate import Check
from pipeline.artifacts.curve import MaskRecord
from pipeline.artifacts.refs import AdapterRef, ArtifactRef, CheckpointRef
from pipeline.checkpoint.keeps import load_keep, put_keep
from pipeline.checkpoint.reader import DTYPES
from pipeline.dag.stages.training import Recover
from pipeline.errors import InvalidSpec, ZerosLost
from pipeline.spec.recovery import EarlyStop, KeepRule, Lora, Recovery
from pipeline.spec.training_recipe import TrainingRecipe
from pipeline.tensor.dtypes import TORCH_DTYPES
from pipeline.tensor.zeros import first_revived
from workers.training import ranks
from workers.training.certified import certified, check_digests, tensor_digest
from workers.training.config import teacher_config
from workers.training.engine import Engine, Teacher
from workers.training.guard import Guard
from workers.training.lora import adapter_files, apply_lora, merged_state
from workers.training.model import load_model, load_student
from workers.training.shares import parts_of, store_shares
from workers.training.stored import Stored
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
        """The artifacts of the stored weights, certified. Rank 0 calls it."""
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
        self._reader, self._names, self._every_name = loaded.reader, loaded.names, loaded.every_name
        self._keeps = self._starting_keeps()  # by checkpoint name
        if isinstance(recovery.trains, Lora):
            model = apply_lora(
                model, recovery.trains, self._keeps, names=self._names, seed=recovery.text.seed
            )
        else:
            _choose_trained(model, recovery)
        self.engine = Engine(model, config, adam_arguments(recovery))
        held = {
            name: self._keeps[disk]
            for name, disk in self._names.items()
            if disk in self._keeps and name in self.engine.parameters
        }
        self.guard = Guard(self.engine, held) if held else None
        self.teacher = _load_teacher(work)

    @property
    def keeps(self) -> dict[str, Tensor]:
        """The keep tensors by checkpoint name, as they are now."""
        if self.guard is None:
            return self._keeps
        return {**self._keeps, **{self._names[name]: keep for name, keep in self.guard.keeps.items()}}

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

        Raises ZerosLost when a pruned weight is not zero in the gathered tensors, and CorruptObject unless
        what is stored are the trained parameters, by their digests.
        """
        merged = self._merged() if isinstance(self._recovery.trains, Lora) else {}
        trained = frozenset(merged) or {self._names[name] for name in self.engine.parameters}
        keeps, digests = self.keeps, dict[str, str]()

        def now(disk: str) -> Tensor:
            return self._now(disk, merged).to("cpu", DTYPES[self._reader.index.tensors[disk].dtype])

        def handed_over(disk: str, tensor: Tensor) -> int:
            if disk in trained:
                digests[disk] = tensor_digest(tensor)
            return _checked(disk, tensor, keeps[disk]) if disk in keeps else 0

        checkpoint, held = store_shares(
            self._content,
            self._work.checkpoint,
            parts_of(self._every_name, self._work.row.blocks),
            now,
            handed_over,
        )
        check_digests(self._content, checkpoint, ranks.gathered(digests), trained=trained)
        return ranks.from_first(lambda: self._stored(step, checkpoint, held=held))

    def artifacts(self, stored: Stored, checks: Sequence[Check]) -> dict[str, ArtifactRef]:
        """The checkpoint, its adapter if there is one, and its certificate. Rank 0 calls it."""
        certificate = certified(self._work, stored, checks=checks, held=self.keep_rule.kind == "held")
        adapter = {} if stored.adapter is None else {"adapter": stored.adapter}
        return {"checkpoint": stored.checkpoint, **adapter, **certificate}

    def _stored(self, step: int, checkpoint: CheckpointRef, *, held: int) -> Stored:
        """The record of a stored checkpoint. Rank 0 calls it."""
        keeps, keep = self.keeps, self._work.keep
        if keeps and self.keep_rule.kind != "held":
            keep = put_keep(self._content, checkpoint, keeps)
        check = Check(at="gather", step=step, tensors=len(keeps), held=held, zeros=held) if keeps else None
        return Stored(step=step, checkpoint=checkpoint, keep=keep, adapter=self._adapter, check=check)

    def _starting_keeps(self) -> dict[str, Tensor]:
        if self._work.keep is not None:
            return load_keep(self._content, self._work.checkpoint, self._work.keep)
        if self.keep_rule.kind != "gradual":
            return {}
        row = self._work.row
        linears = {f"{linear}.weight" for linear in row.linear_names}
        return {
            disk: torch.ones(self._reader.index.tensors[disk].shape, dtype=torch.bool)
            for name, disk in self._names.items()
            if name.startswith(f"{row.blocks}.") and _within_block(name, row.blocks) in linears
        }

    def _now(self, disk: str, merged: Mapping[str, Tensor]) -> Tensor:
        if disk in merged:
            return merged[disk]
        name = self._parameter_names.get(disk)
        if name is None or name not in self.engine.parameters:
            return self._reader.tensor(disk)
        return self.engine.full(name)

    @cached_property
    def _parameter_names(self) -> dict[str, str]:
        return {disk: name for name, disk in self._names.items()}

    def _merged(self) -> dict[str, Tensor]:
        lora = self._recovery.trains
        assert isinstance(lora, Lora)
        trained = {name: self.engine.full(name) for name in self.engine.parameters}
        row = self._work.row
        self._adapter = None
        if ranks.rank() == 0:
            files = adapter_files(trained, lora, row=row, base_model=self._work.model_name)
            refs = [FileRef(path=path, blob=self._content.put_bytes(data)) for path, data in files.items()]
            self._adapter = AdapterRef(files=tuple(sorted(refs, key=lambda file: file.path)))
        merged = merged_state(trained, self._reader.tensor, lora, self._keeps, names=self._names, row=row)
        return dict(merged)

    _adapter: AdapterRef | None = None


def _checked(disk: str, tensor: Tensor, keep: Tensor) -> int:
    """Count the zeros that are held. Raises ZerosLost when a pruned weight is not zero."""
    position = first_revived(tensor, keep.cpu())
    if position is not None:
        raise ZerosLost(
            f"{disk}{list(position)} is {float(tensor[position]):g} after the shares of all workers were put "
            f"together: a pruned weight has come back; nothing is published"
        )
    return int((~keep).sum())


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


def _load_teacher(work: Work) -> Teacher | None:
    if work.teacher is None:
        return None
    precision = work.stage.recipe.precision
    config = None
    if work.resources.teacher != "whole":
        config = teacher_config(work.resources, workers=ranks.workers(), precision=precision)
    model, _ = load_model(
        work.settings.content(),
        work.teacher,
        dtype=TORCH_DTYPES[precision],
        device=work.device,
        partition=config,
    )
    return Teacher(model.eval(), config)


def _choose_trained(model: nn.Module, recovery: Recovery) -> None:
    vectors = recovery.trains.kind == "norms_and_biases"
    chosen = [p for p in model.parameters() if not vectors or len(getattr(p, "ds_shape", p.shape)) == 1]
    if not chosen:
        raise InvalidSpec("the model has neither norms with weights nor biases", "spec.recovery.trains.kind")
    for parameter in chosen:
        parameter.requires_grad_(True)


def _within_block(name: str, blocks: str) -> str:
    return name.removeprefix(f"{blocks}.").partition(".")[2]
