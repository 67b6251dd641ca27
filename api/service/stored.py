"""Reads the documents in the database, which an older or a newer version of Secateur may have written.

Old fields have defaults, so a newer version reads what older ones wrote. The other way round, while pods are
replaced or after a rollback, a row may have fields and values that this version does not know. Such a row
stops nothing but itself: it is shown without them, and nobody acts on it who does not know all of it.
"""

import json
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, JsonValue, TypeAdapter, ValidationError

from api.errors import ApiError

Model = TypeVar("Model", bound=BaseModel)
Value = TypeVar("Value")
UNKNOWN = "unknown"  # shown instead of a word that this version does not know


class Unreadable(ApiError):
    """A stored document has a field or a value that this version does not know. `why` names the first."""

    def __init__(self, what: str, error: ValidationError) -> None:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        self.why = f"{field}: {first['msg']}" if field else first["msg"]
        super().__init__(
            409,
            "stored_by_another_version",
            f"{what} was stored by another version of Secateur, and this one does not understand it "
            f"({self.why}); use that version",
        )


def whole(model: type[Model], text: str, what: str) -> Model:
    """Reads a document that is acted on. `what`: its name in the message. Raises Unreadable also for a field
    that would be ignored, because a job without one of its fields is another job."""
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        raise Unreadable(what, error) from None


def known(model: type[Model], text: str, what: str) -> Model:
    """Reads the part of a document that this version knows. Raises Unreadable if a value that it needs is not
    known."""
    try:
        return model.model_validate_json(text, extra="ignore")
    except ValidationError as error:
        raise Unreadable(what, error) from None


def known_value(adapter: TypeAdapter[Value], text: str, what: str) -> Value:
    """Does for a TypeAdapter what `known` does for a model."""
    try:
        return adapter.validate_json(text, extra="ignore")
    except ValidationError as error:
        raise Unreadable(what, error) from None


def word(value: str, words: Any) -> Any:
    """Returns a stored word if it is among the members of a Literal, else UNKNOWN."""
    return value if value in get_args(words) else UNKNOWN


def changed(before: str, after: BaseModel) -> str:
    """Returns the JSON of a changed document, with those fields of the one before that its model does not
    know, so that a newer version finds them again."""
    return json.dumps(_with_unknown(json.loads(before), after.model_dump(mode="json")))


def _with_unknown(before: JsonValue, after: JsonValue) -> JsonValue:
    if isinstance(before, dict) and isinstance(after, dict):
        merged = {name: _with_unknown(before.get(name), value) for name, value in after.items()}
        return {name: value for name, value in before.items() if name not in after} | merged
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        return [_with_unknown(old, new) for old, new in zip(before, after, strict=True)]
    return after
