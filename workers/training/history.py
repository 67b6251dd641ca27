"""What has happened in a training so far: kept by every worker alike, and saved with its checkpoints."""

from collections.abc import Mapping
from typing import Literal

from pipeline.artifacts.certificate import Check
from pipeline.artifacts.curve import Curve, KeepUpdate, MaskRecord, StepRecord, Validation
from workers.training.saving import Best, TrainingState


class History:
    """Grows step by step. `saved`: step of the last training checkpoint. `stale`: validations since the
    best."""

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
        """Steps that are done."""
        return self.steps[-1].step if self.steps else 0

    def go_on(self, state: TrainingState) -> None:
        """Take over what was saved; what came after it is forgotten, and will be done again."""
        self.steps = list(state.curve.steps)
        self.validations = list(state.curve.validations)
        self.updates = list(state.curve.updates)
        self.checks = list(state.checks)
        self.masks = list(state.curve.masks)
        self.best, self.stale = state.best, state.stale
        self.starts = state.curve.starts + 1
        self.saved = state.step

    def state(self, *, workers: int, scaler: Mapping[str, float]) -> TrainingState:
        """What is saved now."""
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
        """Content of `curve.json`."""
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
        """Whether a validation loss is the best so far; counts those that are not."""
        better = self.best is None or loss < self.best.loss - margin
        self.stale = 0 if better else self.stale + 1
        return better

    def windows(self, length: int) -> tuple[float, float]:
        """The lowest mean loss of that many steps in a row so far, and that of the last ones; both infinite
        while there are too few."""
        if len(self.steps) < length:
            return float("inf"), float("inf")
        now = sum(record.loss for record in self.steps[-length:]) / length
        self._lowest = min(self._lowest, now)
        return self._lowest, now
