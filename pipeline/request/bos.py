"""Fills in the place of BOS where a spec leaves it to the model's own habit."""

from typing import TypeVar

from pydantic import BaseModel

from pipeline.architecture.rows import row_for
from pipeline.spec.evaluation import PerplexityText
from pipeline.spec.self_calibration import SelfCalibration
from pipeline.spec.texts import Calibration
from pipeline.spec.training_recipe import TrainingText

Part = TypeVar("Part", bound=BaseModel)


def with_bos(part: Part, model_type: str) -> Part:
    """Returns a spec, or a part of one, with `bos` of all its texts filled in. For types without a habit of
    their own, samples and training sequences stay as they are, and perplexities follow the tokenizer, as they
    always did: their stage keys stay too."""
    return _filled(part, row_for(model_type).bos)


def _filled(part: Part, habit: str | None) -> Part:
    changes: dict[str, object] = {}
    for name in type(part).model_fields:
        value = getattr(part, name)
        new = _filled_value(value, habit)
        if new is not value:
            changes[name] = new
    if isinstance(part, PerplexityText) and part.bos is None:
        changes["bos"] = habit or "tokenizer"
    if (
        isinstance(part, Calibration | SelfCalibration | TrainingText)
        and part.bos is None
        and habit is not None
    ):
        changes["bos"] = habit
    return part.model_copy(update=changes) if changes else part


def _filled_value(value: object, habit: str | None) -> object:
    if isinstance(value, BaseModel):
        return _filled(value, habit)
    if isinstance(value, tuple):
        new = tuple(_filled_value(item, habit) for item in value)
        return new if any(one is not other for one, other in zip(new, value, strict=True)) else value
    return value
