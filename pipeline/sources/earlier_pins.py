"""Reads pins that earlier versions stored with one field per source, and turns them into today's form."""

from collections.abc import Iterator, Mapping

from pydantic import JsonValue

FIELDS = {
    "model": "spec.model.source",
    "calibration": "spec.calibration.source",
    "tasks": "spec.evaluation.tasks.include",
    "recovery": "spec.recovery.text.source",
    "teacher": "spec.recovery.objective.teacher.source",
    "mask_text": "spec.prune.method.training.text.source",
    "prior": "spec.prune.method.prior.source",
}
LISTS = {
    "perplexity": "spec.evaluation.perplexity",
    "compared": "spec.prune.compare_with",
    "vocabulary": "spec.structure.vocabulary.texts",
}
FACTS = {"facts": FIELDS["model"], "teacher_facts": FIELDS["teacher"]}


def translated(document: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """Returns the same document with sources by the paths of their fields. Raises ValueError for a field that
    no version had."""
    unknown = document.keys() - FIELDS.keys() - LISTS.keys() - FACTS.keys()
    if unknown:
        raise ValueError(f"stored pins have the unknown fields {', '.join(sorted(unknown))}")
    models = {path: document[name] for name, path in FACTS.items() if document.get(name) is not None}
    return {"sources": dict(_sources(document)), "models": models}


def _sources(document: Mapping[str, JsonValue]) -> Iterator[tuple[str, JsonValue]]:
    for name, path in FIELDS.items():
        if document.get(name) is not None:
            yield path, document[name]
    for name, path in LISTS.items():
        pins = document.get(name)
        for i, pin in enumerate(pins if isinstance(pins, list) else ()):
            yield f"{path}.{i}.source", pin
            if name == "vocabulary":
                # The last text may be the held-out one, which only the spec decides. Sources are looked up
                # by the spec's fields, so the last one is stored under both paths.
                yield "spec.structure.vocabulary.held_out.source", pin
