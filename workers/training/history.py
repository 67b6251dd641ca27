"""The history of a training: every worker keeps the same one, and it is saved with training checkpoints."""

from collections.abc import Mapping
from typing import Literal

from pipeline.artifacts.certificate import Check
from pipeline.artifacts.curve import Curve, KeepUpdate, MaskRecord, StepRecord, Validation
from workers.training.saving import Best, TrainingState


class History:
    """The records of steps, validations and checks so far.

    `saved` is the step of the last training checkpoint, `stale` the number of validations since the best.
    """

    def __init__(self, *, total_steps: int, deepspeed: Mapping[str, object]) -> None:
        self._total_steps = total_steps
        self._deepspeed = dict(deepspeed)
        self._lowest = float("inf")
        self.steps: list[StepRecord] = []
        self.validations: list[Validation] = []
        self.updates: list[KeepUpdate] = []
        self.checks: list[Check] = []
        self.masks: list[MaskRecord] = []
        self.best: Best | None = None
        self.stale = 0
        self.starts = 1
        self.saved: int | None = None
        self.stopped: Literal["finished", "early"] = "finished"

    @property
    def step(self) -> int:
        """The number of finished steps."""
        return self.steps[-1].step if self.steps else 0

    def go_on(self, state: TrainingState) -> None:
        """Take over a saved state. Steps after it are forgotten, and will be done again."""
        self.steps = list(state.curve.steps)
        self.validations = list(state.curve.validations)
        self.updates = list(state.curve.updates)
        self.checks = list(state.checks)
        self.masks = list(state.curve.masks)
        self.best, self.stale = state.best, state.stale
        self.starts = state.curve.starts + 1
        self.saved = state.step

    def state(self, *, workers: int, scaler: Mapping[str, float]) -> TrainingState:
        """The state to save now."""
        self.saved = self.step
        return TrainingState(
            step=self.step,
            workers=workers,
            curve=self.curve(result_step=self.step),
            checks=tuple(self.checks),
            scaler=dict(scaler),
            best=self.best,
            stale=self.stale,
        )

    def curve(self, *, result_step: int) -> Curve:
        """The content of `curve.json`."""
        return Curve(
            steps=tuple(self.steps),
            validations=tuple(self.validations),
            updates=tuple(self.updates),
            masks=tuple(self.masks),
            total_steps=self._total_steps,
            result_step=result_step,
            stopped=self.stopped,
            deepspeed=self._deepspeed,
            starts=self.starts,
        )

    def improved(self, loss: float, *, margin: float) -> bool:
        """Tells whether a validation loss is the best so far, and counts those in a row that are not."""
        better = self.best is None or loss < self.best.loss - margin
        self.stale = 0 if better else self.stale + 1
        return better

    def windows(self, length: int) -> tuple[float, float]:
        """The lowest mean loss over any `length` steps in a row that was seen so far, and the mean over the
        last `length` steps. Both are infinite while there are fewer steps."""
        if len(self.steps) < length:
            return float("inf"), float("inf")
        now = sum(record.loss for record in self.steps[-length:]) / length
        self._lowest = min(self._lowest, now)
        return self._lowest, now
