"""Pins stand under the paths of the fields that name them; what an earlier version stored is read."""

from typing import Any

import pytest
from pydantic import JsonValue, ValidationError

from pipeline.dag.plan import plan
from pipeline.job.ledger import WorkOrder
from pipeline.request.prune_spec import JobRequest, PruneSpec
from pipeline.sources.pins import MODEL, TEACHER, Pins
from pipeline.spec.source_fields import source_fields
from tests.made_pins import made_pin, made_pins

FACTS = {"model_type": "llama", "blocks": 2, "max_positions": 128}
TEXT = {"source": "file:/t.txt", "sequence_length": 32}
NM = {"kind": "nm", "keep": 2, "group": 4}
EVERYTHING: dict[str, Any] = {
    "model": {"source": "file:/model"},
    "calibration": TEXT | {"source": "file:/calibration.txt"},
    "structure": {
        "vocabulary": {
            "size": 64,
            "texts": [{"source": "file:/first.txt"}, {"source": "file:/second.txt"}],
            "held_out": {"source": "file:/held.txt"},
        }
    },
    "prune": {
        "method": {"kind": "wanda"},
        "pattern": NM,
        "compare_with": [{"name": "code", "source": "file:/code.safetensors"}],
    },
    "recovery": {
        "text": TEXT | {"source": "file:/recovery.txt"},
        "steps": 30,
        "objective": {"kind": "distillation", "teacher": {"source": "file:/teacher"}},
    },
    "evaluation": {
        "perplexity": [TEXT | {"source": "file:/one.txt"}, TEXT | {"source": "file:/two.txt"}],
        "tasks": {"tasks": ["mine"], "include": "file:/tasks"},
    },
}
STORED: dict[str, JsonValue] = {
    name: made_pin(f"file:/{source}", path=source).model_dump(mode="json")
    for name, source in {
        "model": "model",
        "calibration": "calibration.txt",
        "tasks": "tasks",
        "recovery": "recovery.txt",
        "teacher": "teacher",
    }.items()
} | {
    "facts": FACTS,
    "teacher_facts": FACTS,
    "mask_text": None,
    "prior": None,
    **{
        name: [made_pin(f"file:/{source}", path=source).model_dump(mode="json") for source in sources]
        for name, sources in {
            "perplexity": ["one.txt", "two.txt"],
            "vocabulary": ["first.txt", "second.txt", "held.txt"],
            "compared": ["code.safetensors"],
        }.items()
    },
}


def spec(**changes: Any) -> PruneSpec:
    return PruneSpec.model_validate(EVERYTHING | changes)


def pins(asked: PruneSpec) -> Pins:
    return made_pins(asked, pin=lambda field: made_pin(field.uri, path=field.uri.removeprefix("file:/")))


def test_every_source_of_a_spec_is_found_in_the_order_of_its_fields() -> None:
    assert {field.path: field.uri for field in source_fields(spec(), "spec")} == {
        "spec.model.source": "file:/model",
        "spec.calibration.source": "file:/calibration.txt",
        "spec.structure.vocabulary.texts.0.source": "file:/first.txt",
        "spec.structure.vocabulary.texts.1.source": "file:/second.txt",
        "spec.structure.vocabulary.held_out.source": "file:/held.txt",
        "spec.prune.compare_with.0.source": "file:/code.safetensors",
        "spec.recovery.text.source": "file:/recovery.txt",
        "spec.recovery.objective.teacher.source": "file:/teacher",
        "spec.evaluation.perplexity.0.source": "file:/one.txt",
        "spec.evaluation.perplexity.1.source": "file:/two.txt",
        "spec.evaluation.tasks.include": "file:/tasks",
    }


def test_a_field_that_is_not_pinned_is_named_with_those_that_are() -> None:
    with pytest.raises(KeyError, match=r"spec\.recovery\.txt is not pinned; .* spec\.recovery\.text\.source"):
        pins(spec()).of("spec.recovery.txt")


def test_pins_of_an_earlier_version_plan_the_same_job() -> None:
    asked, stored = spec(), Pins.model_validate(STORED)
    assert plan(asked, stored) == plan(asked, pins(asked))
    for field in source_fields(asked, "spec"):
        assert stored.of(field.path) == pins(asked).of(field.path), field.path
    assert stored.models.keys() == {MODEL, TEACHER}


def test_pins_of_an_earlier_version_without_held_out_text() -> None:
    structure = {"vocabulary": {"size": 64, "texts": [{"source": "file:/first.txt"}]}}
    [first, *_] = STORED["vocabulary"] if isinstance(STORED["vocabulary"], list) else []
    asked, stored = spec(structure=structure), Pins.model_validate(STORED | {"vocabulary": [first]})
    assert plan(asked, stored) == plan(asked, pins(asked))


def test_pins_of_an_earlier_version_with_learned_masks() -> None:
    method = {
        "kind": "maskllm",
        "prior": {"kind": "stored", "source": "file:/prior.safetensors"},
        "training": {"text": TEXT | {"source": "file:/masks.txt"}, "steps": 30},
    }
    asked = spec(prune={"method": method, "pattern": NM}, recovery=None)
    learned: dict[str, JsonValue] = {
        "mask_text": made_pin("file:/masks.txt", path="masks.txt").model_dump(mode="json"),
        "prior": made_pin("file:/prior.safetensors", path="prior.safetensors").model_dump(mode="json"),
        "compared": [],
    }
    left_out = {"recovery": None, "teacher": None, "teacher_facts": None}
    stored = Pins.model_validate(STORED | left_out | learned)
    assert plan(asked, stored) == plan(asked, pins(asked))


def test_a_work_order_of_an_earlier_version_is_read_and_written_in_todays_form() -> None:
    request = JobRequest.model_validate({"spec": EVERYTHING}).model_dump(mode="json")
    order = WorkOrder.model_validate({"job": "j", "attempt": 1, "request": request, "pins": STORED})
    assert order.pins.of("spec.recovery.text.source").source == "file:/recovery.txt"
    assert WorkOrder.model_validate_json(order.model_dump_json()) == order


def test_unknown_fields_are_refused_in_both_forms() -> None:
    with pytest.raises(ValidationError, match="stored pins have the unknown fields plan"):
        Pins.model_validate(STORED | {"plan": None})
    with pytest.raises(ValidationError, match="Extra inputs"):
        Pins.model_validate(pins(spec()).model_dump() | {"plan": None})
