"""Prompts and calibration on own text in a spec: what is refused, and under which field."""

from typing import Any

import pytest

from pipeline.request.spec_files import SpecError, checked, located

HALF = {"method": {"kind": "wanda"}, "pattern": {"kind": "unstructured", "sparsity": 0.5}}


def refusal(**parts: Any) -> SpecError:
    spec = {"model": {"source": "file:/m"}, "calibration": {"source": "file:/t.txt"}, "prune": HALF, **parts}
    with pytest.raises(SpecError) as caught:
        checked({"spec": spec})
    return caught.value


@pytest.mark.parametrize(
    ("prompts", "field", "told"),
    [
        ([], "prompts", "at least 1 item"),
        ([""], "prompts.0", "at least 1 character"),
        ("The gardener", "prompts", "valid array"),
        ({"source": "file:/t.csv"}, "prompts", "must end in one of"),
        ({"source": "file:/t.txt", "limits": 3}, "prompts.limits", "did you mean 'limit'"),
        ({"source": "t.txt", "limit": 0}, "prompts.source", "a source is one of"),
    ],
)
def test_prompts_are_refused_by_field(prompts: object, field: str, told: str) -> None:
    behaviour = refusal(evaluation={"behaviour": {"prompts": prompts}})
    assert behaviour.param == f"spec.evaluation.behaviour.{field}"
    assert told in behaviour.message
    own = refusal(calibration={"source": "self", "prompts": prompts})
    assert own.param == f"spec.calibration.{field}"
    assert told in own.message


def test_the_fields_of_both_calibrations_are_told_apart() -> None:
    assert refusal(calibration={"source": "self"}).param == "spec.calibration.prompts"
    assert "not a known field" in refusal(calibration={"source": "file:/t.txt", "prompts": ["a"]}).message
    assert (
        "not a known field"
        in refusal(calibration={"source": "self", "prompts": ["a"], "cut": "packed"}).message
    )
    assert refusal(calibration={"samples": 4}).param == "spec.calibration.source"


def test_a_sweep_shows_no_behaviour() -> None:
    text = {"perplexity": [{"source": "file:/t.txt"}], "behaviour": {"prompts": ["a"]}}
    assert (
        "leave evaluation.behaviour out" in refusal(sweep={"sparsities": [0.5, 0.6]}, evaluation=text).message
    )


def test_self_is_no_file_beside_the_spec(tmp_path: Any) -> None:
    given = {"calibration": {"source": "self", "prompts": {"source": "file:prompts.txt"}}}
    found = located({"spec": given}, tmp_path)
    assert found == {
        "spec": {"calibration": {"source": "self", "prompts": {"source": f"file:{tmp_path}/prompts.txt"}}}
    }
