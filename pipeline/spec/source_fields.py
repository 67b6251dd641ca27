"""The sources that a spec names, found by the types of its fields: a new source is one field.

A field is a source when its type carries a SourceKind, as ModelUri, TextUri, MasksUri and TaskFilesUri do.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import get_args

from pydantic import BaseModel

from pipeline.spec.uri import SourceKind


@dataclass(frozen=True)
class SourceField:
    """A field that names a source. `path`: where it stands, such as `spec.evaluation.perplexity.0.source`;
    `holder`: the part of the spec that it is a field of."""

    path: str
    kind: SourceKind
    uri: str
    holder: BaseModel


def source_fields(part: BaseModel | tuple[BaseModel, ...], at: str) -> Iterator[SourceField]:
    """All sources in a part of a spec that stands at the path `at`, in the order of the fields."""
    return _walk(part, at, None)


def _walk(value: object, at: str, marked: tuple[SourceKind, BaseModel] | None) -> Iterator[SourceField]:
    """`marked`: the kind that the type of the field gives, and the model with that field."""
    if isinstance(value, BaseModel):
        for name, field in type(value).model_fields.items():
            kind = _kind_in((*field.metadata, field.annotation))
            yield from _walk(getattr(value, name), f"{at}.{name}", (kind, value) if kind else None)
    elif isinstance(value, tuple):
        for i, item in enumerate(value):
            yield from _walk(item, f"{at}.{i}", marked)
    elif isinstance(value, str) and marked is not None:
        kind, holder = marked
        yield SourceField(at, kind, value, holder)


def _kind_in(annotations: Iterable[object]) -> SourceKind | None:
    """The first mark among annotations, however deep: `ModelUri | None` has one too."""
    for annotation in annotations:
        kind = annotation if isinstance(annotation, SourceKind) else _kind_in(get_args(annotation))
        if kind is not None:
            return kind
    return None
