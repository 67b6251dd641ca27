"""Patterns: their fields, and what their errors teach."""

import json

import pytest
from pydantic import TypeAdapter, ValidationError

from pipeline.errors import InvalidSpec
from pipeline.request.prune_spec import Prune
from pipeline.spec.patterns import NM, Pattern, Unstructured
from pipeline.spec.sparsity_plan import SparsityPlan, with_keep, with_sparsity


def test_targets_are_fractions_of_zeros() -> None:
    assert Unstructured(sparsity=0.7).target == 0.7
    assert NM(keep=3, group=8).target == 0.625


def test_the_union_is_told_apart_by_kind() -> None:
    adapter: TypeAdapter[Pattern] = TypeAdapter(Pattern)
    assert adapter.validate_python({"kind": "nm", "keep": 2, "group": 4}) == NM(keep=2, group=4)
    assert adapter.validate_python({"kind": "unstructured", "sparsity": 0}) == Unstructured(sparsity=0)
    with pytest.raises(ValidationError, match="sparsity"):
        adapter.validate_python({"kind": "nm", "keep": 2, "group": 4, "sparsity": 0.5})


@pytest.mark.parametrize("sparsity", [-0.1, 1, float("nan")])
def test_sparsity_lies_from_0_to_below_1(sparsity: float) -> None:
    with pytest.raises(ValidationError, match="sparsity"):
        Unstructured(sparsity=sparsity)


@pytest.mark.parametrize(("keep", "group"), [(4, 4), (5, 4)])
def test_keeping_every_weight_of_a_group_is_refused(keep: int, group: int) -> None:
    with pytest.raises(ValidationError, match=r"keep counts the weights that stay .* 1 to 3"):
        NM(keep=keep, group=group)


@pytest.mark.parametrize(("keep", "group"), [(0, 4), (1, 1), (1, 65)])
def test_groups_have_2_to_64_weights_and_keep_one(keep: int, group: int) -> None:
    with pytest.raises(ValidationError):
        NM(keep=keep, group=group)


@pytest.mark.parametrize(
    ("in_features", "advice"),
    [(66, "use a group of 2, 3, 6, 11, 22, 33"), (67, "use pattern kind unstructured")],
)
def test_groups_must_divide_the_inputs(in_features: int, advice: str) -> None:
    NM(keep=2, group=4).check_in_features(64)
    with pytest.raises(InvalidSpec, match=f"mlp.down_proj has {in_features}; {advice}") as caught:
        NM(keep=2, group=4).check_in_features(in_features, linear="mlp.down_proj")
    assert caught.value.param == "spec.prune.pattern.group"


def test_a_plan_keeps_the_other_fields_and_checks_again() -> None:
    unstructured = Unstructured(sparsity=0.5, comparison_group="matrix", rounding="floor")
    assert with_sparsity(unstructured, 0.25).comparison_group == "matrix"
    with pytest.raises(ValidationError):
        with_sparsity(unstructured, 1.0)
    with pytest.raises(ValidationError):
        with_keep(NM(keep=2, group=4), 4)
    plan = SparsityPlan(asked=0.5, blocks=(NM(keep=1, group=4), NM(keep=3, group=4)))
    assert plan.sparsity == (0.75, 0.25)
    assert plan.mean_sparsity == 0.5
    assert SparsityPlan.model_validate_json(plan.model_dump_json()) == plan


def test_the_older_convention_has_a_name_of_its_own_and_becomes_the_other_at_once() -> None:
    spec = {"method": {"kind": "magnitude"}, "pattern": {"kind": "nm_zeros", "zeros": 5, "group": 8}}
    prune = Prune.model_validate({**spec, "allocation": {"kind": "uniform"}})
    assert prune.pattern == NM(keep=3, group=8)
    assert Prune.model_validate(prune.model_dump(mode="json")) == prune
    kinds = json.dumps(Prune.model_json_schema())
    assert "nm_zeros" in kinds
    assert "nm_zeros" not in json.dumps(Prune.model_json_schema(mode="serialization"))


@pytest.mark.parametrize("zeros", [0, 4, 5, None, "2"])
def test_zeros_leave_something_and_take_something(zeros: object) -> None:
    pattern = {"kind": "nm_zeros", "zeros": zeros, "group": 4}
    with pytest.raises(ValidationError, match=r"prunes zeros of group weights, 1 to group - 1; got"):
        Prune.model_validate({"method": {"kind": "magnitude"}, "pattern": pattern})


def test_names_of_the_older_convention_are_not_taken_for_kept_weights() -> None:
    for pattern in ({"kind": "nm", "prune_n": 2, "prune_m": 4}, {"kind": "nm", "zeros": 2, "group": 4}):
        with pytest.raises(ValidationError, match="keep"):
            Prune.model_validate({"method": {"kind": "magnitude"}, "pattern": pattern})
