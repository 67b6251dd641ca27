"""The training loop, which every worker runs: the same steps on the same data, however many workers share
them.

restore -> { step -> move zeros -> certify -> validate -> save } -> store -> certify
"""

import math
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import torch

from pipeline.artifacts.curve import StepRecord, Validation
from pipeline.artifacts.refs import ArtifactRef, CurveRef
from pipeline.checkpoint.reader import CheckpointReader
from pipeline.dag.stages.training import Recover
from pipeline.errors import TrainingDiverged
from pipeline.resolve.communication import Communication, communication
from pipeline.structure.sizes import sizes_of
from workers.context import Note, Progress, Step, Trained, Validated
from workers.memory import peak_memory_bytes, reset_peak_memory
from workers.training import ranks, saving
from workers.training.config import deepspeed_config
from workers.training.data import MicroBatch, TrainingData, checksum, share_of
from workers.training.history import History
from workers.training.losses import Losses
from workers.training.mask_student import MaskStudent
from workers.training.moving import Mover
from workers.training.stored import Stored
from workers.training.student import Student, Trainee
from workers.training.work import TrainingResult, TrainingRuntime, Work

MAX_STEP_EVENTS = 500  # in one training
ASK_SECONDS = 5.0  # between two questions about preemption


def train(work: Work, runtime: TrainingRuntime) -> TrainingResult:
    """Train to the end and store the result.

    Raises TrainingDiverged and ZerosLost, the same on all workers.
    """
    training = _Training(work, runtime)
    training.restore()
    training.run()
    return training.result()


class _Training:
    def __init__(self, work: Work, runtime: TrainingRuntime) -> None:
        reset_peak_memory()
        self._started_at = self._asked_at = time.monotonic()
        self._work = work
        self._runtime = runtime
        self._recipe = recipe = work.stage.recipe
        self._total = recipe.total_steps
        self._data = TrainingData(work.settings.content(), work.tokens, seed=recipe.text.seed)
        sends = sent_between_gpus(work) if work.cuda else None
        config = deepspeed_config(
            recipe, work.resources, workers=ranks.workers(), accumulation=len(self._share(0)), sends=sends
        )
        self._student = student = _student_for(work, config)
        self._engine, self._guard = student.engine, student.guard
        self._losses = Losses(self._engine, student.teacher, recipe.objective, student.head)
        self._mover = Mover(student.keep_rule, self._engine, self._guard, total_steps=self._total)
        self._history = History(total_steps=self._total, deepspeed=config)
        self._tell_the_split(sends, fused=student.head is not None)

    def restore(self) -> None:
        """Continue after the last training checkpoint, if there is one."""
        with self._runtime.restored() as directory:
            if directory is None:
                return
            state = saving.load_state(directory)
            for name, keep in (saving.load_keeps(directory, self._engine.shapes) or {}).items():
                assert self._guard is not None
                self._guard.change(name, keep)
            saving.load_weights(directory, self._engine, state)
        self._engine.restore_scaler(state.scaler)
        self._history.go_on(state)
        self._tell(
            Note(
                f"training continues after step {state.step} of {self._total} (start {self._history.starts})"
            )
        )

    def run(self) -> None:
        """Train all remaining steps."""
        history, recipe = self._history, self._recipe
        if history.step == 0:
            self._check()
            self._validate()
        while history.step < self._total and history.stopped != "early":
            record = self._step()
            step, last = record.step, record.step == self._total
            update = self._mover.after(step, taken=not record.skipped)
            if update is not None:
                history.updates.append(update)
            asked = self._record(record)
            if last or step % self._work.stage.certify_every_steps == 0:
                self._check()
            if last or step % recipe.validate_every_steps == 0:
                self._validate()
            if not last and (step % self._work.resources.save_every_steps == 0 or asked):
                self._save()

    def result(self) -> TrainingResult:
        """Store the weights, read them back and certify them."""
        best = self._history.best
        stored = best.stored if best is not None else self._student.store(step=self._history.step)
        artifacts = self._artifacts(stored)
        return TrainingResult(
            artifacts=artifacts,
            tokens=self._history.step * self._recipe.global_batch_size * self._data.index.sequence_length,
            seconds=time.monotonic() - self._started_at,
            peak_memory_bytes=int(ranks.largest([float(peak_memory_bytes())], self._engine.device)[0]),
        )

    def _step(self) -> StepRecord:
        """Take one optimizer step. Raises TrainingDiverged when the loss or the gradient's norm is not
        finite."""
        step = self._history.step
        started = time.monotonic()
        torch.manual_seed(hash((self._recipe.text.seed, step, ranks.rank())) % 2**63)  # for LoRA's dropout
        self._mover.before(step + 1)
        self._student.before(step)
        share = self._share(step)
        scale = len(share) * ranks.workers()  # the engine averages over both, but the weights add up to 1
        loss = lm_loss = data = 0.0
        for number, batch in enumerate(share):
            tokens_BL = self._data.sequences(batch.indices)
            minimised, entropy = self._losses.training(tokens_BL.to(self._engine.device))
            rewarded = minimised - self._student.rewarded(step)
            self._engine.backward(rewarded * (batch.weight * scale))
            loss += float(minimised.detach()) * batch.weight
            lm_loss += float(entropy.detach()) * batch.weight
            data += checksum(tokens_BL) if batch.weight else 0
            if number < len(share) - 1:
                self._engine.micro_step()
        loss, lm_loss, data = ranks.summed([loss, lm_loss, data], self._engine.device)
        self._stop_if_diverged(step + 1, loss)
        rate = self._recipe.learning_rate.at(step, steps=self._total)
        taken = self._engine.step(rate)
        norm = self._engine.gradient_norm()
        if taken and not math.isfinite(norm):
            raise TrainingDiverged(f"the gradient's norm is {norm} at step {step + 1}; {self._remedy()}")
        size = self._recipe.global_batch_size
        return StepRecord(
            step=step + 1,
            loss=loss,
            language_modelling_loss=lm_loss,
            learning_rate=rate,
            gradient_norm=norm if taken else 0.0,
            tokens_per_second=size * self._data.index.sequence_length / (time.monotonic() - started),
            first_sequence=step * size,
            end_sequence=(step + 1) * size,
            data_checksum=int(data) % 2**32,
            workers=ranks.workers(),
            loss_scale=self._engine.loss_scale,
            skipped=not taken,
            started=self._history.starts,
        )

    def _tell_the_split(self, sends: Communication | None, *, fused: bool) -> None:
        """Tell what rules have chosen, where they have chosen something else than the usual."""
        asked = self._work.resources
        if sends is not None:
            split = f"ZeRO {asked.zero_stage}, {len(self._share(0))} micro-batches of {asked.micro_batch}"
            self._tell(Note(f"each of {ranks.workers()} workers: {split}; {sends.sentence()}"))
        if fused:
            self._tell(Note("the logits of a micro-batch are large: the loss takes them in chunks"))

    def _share(self, step: int) -> list[MicroBatch]:
        """This worker's micro-batches of a step, counted from 0."""
        return share_of(
            step,
            rank=ranks.rank(),
            workers=ranks.workers(),
            global_batch_size=self._recipe.global_batch_size,
            micro_batch_size=self._work.resources.micro_batch,
        )

    def _record(self, record: StepRecord) -> bool:
        """Record and report a step. Tells whether a machine is about to be taken away, so that training saves
        now."""
        cuda = self._work.cuda
        now = time.monotonic()
        memory, gpu_memory, ask = ranks.largest(
            [
                float(peak_memory_bytes()),
                float(torch.cuda.max_memory_allocated() if cuda else 0),
                float(ranks.rank() == 0 and now - self._asked_at > ASK_SECONDS),
            ],
            self._engine.device,
        )
        record = record.model_copy(
            update={
                "memory_bytes": int(memory),
                "gpu_memory_bytes": int(gpu_memory) if cuda else None,
                "zeros": self._history.checks[-1].zeros if self._history.checks else None,
            }
        )
        self._history.steps.append(record)
        if record.step % max(1, self._total // MAX_STEP_EVENTS) == 0 or record.step == self._total:
            self._tell(Trained(self._total, record))
            self._tell(Progress(record.step, self._total, f"loss {record.loss:.4f}"))
        if not ask:
            return False
        self._asked_at = now
        return self._runtime.preempted()

    def _check(self) -> None:
        if self._guard is not None:
            self._history.checks.append(self._guard.check(self._history.step))

    def _validate(self) -> None:
        """Record the masks, if they are learned, and the loss on held-out sequences. This may end training
        early."""
        masks = self._student.masks(self._history.step)
        if masks is not None:
            self._history.masks.append(masks)
        if self._data.index.validation_sequences == 0:
            return
        with self._student.as_stored():
            loss = self._losses.validation(
                self._data.validation(), micro_batch_size=self._work.resources.micro_batch
            )
        if not math.isfinite(loss):
            raise TrainingDiverged(
                f"the loss on held-out text is {loss} after step {self._history.step}; {self._remedy()}"
            )
        validation = Validation(step=self._history.step, loss=loss, perplexity=math.exp(min(loss, 700.0)))
        self._history.validations.append(validation)
        self._tell(Validated(validation))
        rule = self._student.early_stop
        if rule is None:
            return
        if self._history.improved(loss, margin=rule.margin):
            self._history.best = saving.Best(loss=loss, stored=self._student.store(step=self._history.step))
        elif self._history.stale >= rule.patience:
            self._history.stopped = "early"
            self._tell(
                Note(f"no better validation loss for {rule.patience} validations: training ends early")
            )

    def _save(self) -> None:
        """Save a training checkpoint, from which any number of workers can continue."""
        moves = self._student.keep_rule.kind != "held" and self._guard is not None
        state = self._history.state(workers=ranks.workers(), scaler=self._engine.scaler_state())
        with tempfile.TemporaryDirectory(prefix="secateur-training-") as name:
            saving.save(Path(name), self._engine, state, self._guard if moves else None)
            self._runtime.save(Path(name), step=self._history.step)

    def _stop_if_diverged(self, step: int, loss: float) -> None:
        if not math.isfinite(loss):
            raise TrainingDiverged(f"the loss is {loss} at step {step}; {self._remedy()}")
        lowest, now = self._history.windows(self._recipe.WINDOW)
        if now > lowest + self._recipe.divergence_margin:
            raise TrainingDiverged(
                f"the mean loss of the {self._recipe.WINDOW} steps before step {step} is {now:.3f}, after "
                f"{lowest:.3f}; {self._remedy()}"
            )

    def _remedy(self) -> str:
        saved = self._history.saved
        kept = (
            f"the training checkpoint of step {saved} is kept" if saved else "no training checkpoint was made"
        )
        return f"{kept}; lower learning_rate.peak, lengthen warmup_steps or set precision float32"

    def _artifacts(self, stored: Stored) -> dict[str, ArtifactRef]:
        """The result's artifacts and its curve."""
        content = self._work.settings.content()
        curve = ranks.from_first(lambda: CurveRef.made(content, self._history.curve(result_step=stored.step)))
        return {"curve": curve, **self._student.artifacts(stored, self._history.checks)}

    def _tell(self, step: Step) -> None:
        if ranks.rank() == 0:
            self._runtime.tell(step)


def sent_between_gpus(work: Work) -> Communication:
    """The communication of a training, by the sizes of its model."""
    reader = CheckpointReader(work.settings.content(), work.checkpoint)
    blocks = sizes_of(work.row, reader.config).num_hidden_layers
    return communication(parameters=reader.weights, blocks=blocks, workers=ranks.workers())


def _student_for(work: Work, config: Mapping[str, object]) -> Trainee:
    return Student(work, config) if isinstance(work.stage, Recover) else MaskStudent(work, config)
