"""Pins of a spec behind which no sources lie."""

from collections.abc import Callable

from pipeline.request.prune_spec import PruneSpec
from pipeline.sources.pins import ModelFacts, Pin, PinnedFile, Pins
from pipeline.spec.source_fields import SourceField, source_fields
from pipeline.spec.uri import SourceKind

FACTS = ModelFacts(model_type="llama", blocks=2, max_positions=128)


def made_pin(source: str, *, path: str = "file") -> Pin:
    """A source with one file of seven bytes."""
    return Pin(source=source, files=(PinnedFile(path=path, size=7, tag="sha256:" + "0" * 64),))


def made_pins(
    spec: PruneSpec,
    *,
    facts: ModelFacts = FACTS,
    pin: Callable[[SourceField], Pin] = lambda field: made_pin(field.uri),
) -> Pins:
    """Every source of the spec. `facts`: of the model and of the teacher, if there is one."""
    fields = tuple(source_fields(spec, "spec"))
    return Pins(
        sources={field.path: pin(field) for field in fields},
        models={field.path: facts for field in fields if field.kind is SourceKind.MODEL},
    )
