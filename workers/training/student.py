"""The model that is trained: loaded, wrapped, guarded, and at the end stored as a checkpoint."""

from collections.abc import Iterator, Mapping
from functools import cached_property

import torch
from torch import Tensor, nn

from pipeline.artifacts import AdapterRef, CheckpointRef, FileRef, KeepRef
from pipeline.canonical import Frozen
from pipeline.certificate import Check
from pipeline.checkpoint.assemble import StoredTensors, assemble
from pipeline.checkpoint.keeps import load_keep, put_keep
from pipeline.checkpoint.reader import DTYPES, CheckpointReader
from pipeline.checkpoint.stream import disk_names
from pipeline.checkpoint.writer import put_tensors
from pipeline.errors import InvalidSpec, ZerosLost
from pipeline.recovery import Lora, Recovery
from pipeline.tensor.zeros import first_revived
from workers.training import ranks
from workers.training.engine import Engine
from workers.training.guard import Guard
from workers.training.lora import adapter_files, apply_lora, merged_state
from workers.training.model import load_model
from workers.training.work import TORCH_DTYPES, Work


class Stored(Frozen):
    """The weights after `step` steps. `keep` belongs to them; `check`: of the tensors put together."""

    step: int
    checkpoint: CheckpointRef
    keep: KeepRef | None = None
    adapter: AdapterRef | None = None
    check: Check | None = None


class Student:
    """`engine` runs it, `guard` holds its zeros: None where no trained weight has any to be held."""

    def __init__(self, work: Work, config: Mapping[str, object]) -> None:
        self._work = work
        self._content = work.settings.content()
        self._reader = CheckpointReader(self._content, work.checkpoint)
        recovery = work.stage.recovery
        model, self._names = load_model(
            self._content,
            work.checkpoint,
            dtype=TORCH_DTYPES[recovery.precision],
            device=work.device,
            partition=config if work.resources.zero_stage == 3 else None,
        )
        self._every_name = disk_names(model, self._reader)
        self._keeps = self._starting_keeps()  # by checkpoint name
        model.train()
        if work.resources.gradient_checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
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

    @property
    def keeps(self) -> dict[str, Tensor]:
        """Keep tensors by checkpoint name, as they are now."""
        if self.guard is None:
            return self._keeps
        return {**self._keeps, **{self._names[name]: keep for name, keep in self.guard.keeps.items()}}

    def store(self, *, step: int) -> Stored:
        """Store the weights as they are now, in the types of the checkpoint. All workers take part, each
        stores some of the blocks, and all get the result.

        Raises ZerosLost when a pruned weight is not zero in the tensors put together.
        """
        merged = self._merged() if isinstance(self._work.stage.recovery.trains, Lora) else {}
        keeps = self.keeps
        own: dict[int, StoredTensors] = {}
        held = 0
        for number, names in enumerate(self._parts()):
            mine = number % ranks.workers() == ranks.rank()
            tensors: dict[str, Tensor] = {}
            for disk in names:
                whole = self._now(disk, merged)  # every worker takes part in putting it together
                if mine:
                    tensors[disk] = whole.to("cpu", DTYPES[self._reader.index.tensors[disk].dtype])
                    held += _checked(disk, tensors[disk], keeps[disk]) if disk in keeps else 0
            if mine:
                own[number] = StoredTensors.of(put_tensors(self._content, "part.safetensors", tensors))
        found = ranks.gathered((own, held))
        parts = {number: part for stored, _ in found for number, part in stored.items()}
        return ranks.from_first(lambda: self._stored(step, parts, held=sum(held for _, held in found)))

    def _stored(self, step: int, parts: Mapping[int, StoredTensors], *, held: int) -> Stored:
        """On rank 0."""
        checkpoint = assemble(
            self._content, self._work.checkpoint, [parts[number] for number in sorted(parts)]
        )
        keeps, keep = self.keeps, self._work.keep
        if keeps and self._work.stage.recovery.keep.kind != "held":
            keep = put_keep(self._content, checkpoint, keeps)
        check = Check(at="gather", step=step, tensors=len(keeps), held=held, zeros=held) if keeps else None
        return Stored(step=step, checkpoint=checkpoint, keep=keep, adapter=self._adapter, check=check)

    def _starting_keeps(self) -> dict[str, Tensor]:
        if self._work.keep is not None:
            return load_keep(self._content, self._work.checkpoint, self._work.keep)
        if self._work.stage.recovery.keep.kind != "gradual":
            return {}
        row = self._work.row
        linears = {f"{linear}.weight" for linear in row.linear_names}
        return {
            disk: torch.ones(self._reader.index.tensors[disk].shape, dtype=torch.bool)
            for name, disk in self._names.items()
            if name.startswith(f"{row.blocks}.") and _within_block(name, row.blocks) in linears
        }

    def _parts(self) -> Iterator[list[str]]:
        """Checkpoint names: of what is outside the blocks, then block by block."""
        prefix = f"{self._work.row.blocks}."
        yield sorted({disk for name, disk in self._every_name.items() if not name.startswith(prefix)})
        inside = [name for name in self._every_name if name.startswith(prefix)]
        for block in range(1 + max(int(name.removeprefix(prefix).split(".")[0]) for name in inside)):
            yield sorted(self._every_name[name] for name in inside if name.startswith(f"{prefix}{block}."))

    def _now(self, disk: str, merged: Mapping[str, Tensor]) -> Tensor:
        if disk in merged:
            return merged[disk]
        name = self._parameter_names.get(disk)
        return self.engine.full(name) if name in self.engine.parameters else self._reader.tensor(disk)

    @cached_property
    def _parameter_names(self) -> dict[str, str]:
        return {disk: name for name, disk in self._names.items()}

    def _merged(self) -> dict[str, Tensor]:
        lora = self._work.stage.recovery.trains
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
    """How many zeros are held."""
    position = first_revived(tensor, keep.cpu())
    if position is not None:
        raise ZerosLost(
            f"{disk}{list(position)} is {float(tensor[position]):g} after the shares of all workers were put "
            f"together: a pruned weight has come back; nothing is published"
        )
    return int((~keep).sum())


def adam_arguments(recovery: Recovery) -> dict[str, object]:
    """Of torch's AdamW."""
    optimizer = recovery.optimizer
    return {
        "lr": recovery.learning_rate.peak,
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


def _within_block(name: str, blocks: str) -> str:
    return name.removeprefix(f"{blocks}.").partition(".")[2]
