"""Which stages a spec becomes, what each takes, and under which key its result is found again."""

from typing import Any

import pytest

from pipeline.dag.stages.pruning import MeasureStatistics
from tests.pipeline.dag.made_dags import (
    DISTILLED,
    MODELLED,
    PRUNED,
    TEXT,
    WANDA,
    check,
    ids,
    inputs,
    keys,
    planned,
)

# They change with the version of a stage only: what is stored of a pruning job stays good.
KEYS = {
    "import_model": "6a81585debaa15664d470e3c4069966ae63f4e76d06f69c67e2194d0f8d886e4",
    "calibrate": "ce934eec83b7b16607458fdcfba7215cc73c5a927f03bb83c6dd2bc61ff2e310",
    "measure_statistics": "d118ee2d3de80ebb2e226c5a32112d28a73d62693e39e225c58bd11e6ed60640",
    "measure_blocks": "a6803995ec98d316b079f91e6975bdd10fd6d86779db7ef8702bbb72bac20c29",
    "allocate": "8fa33ad56451a43f8942adf33d3574bdb37b0ae0681c10685e8db7c0d4056a55",
    "prune": "89c54a0255e309ebc5202aec8ad94d35a5505c597f7ead3e5a53468129acb3e0",
    "evaluate:dense": "8c7f326b050e60f835164e1aac278ba55ff0d03b97bb00a52b5a1c79497783a8",
    "evaluate:pruned": "8c7f326b050e60f835164e1aac278ba55ff0d03b97bb00a52b5a1c79497783a8",
}


def test_keys_of_a_pruning_job_are_what_they_were() -> None:
    dag = planned(**PRUNED)
    check(dag)
    assert keys(dag) == KEYS
    assert inputs(dag, "publish")["checkpoint"] == "prune.checkpoint"


def test_recovery_after_pruning_holds_zeros_and_is_taught_by_the_dense_model() -> None:
    dag = planned(**PRUNED, recovery=DISTILLED)
    check(dag)
    assert {name: key for name, key in keys(dag).items() if name in KEYS} == KEYS
    assert inputs(dag, "recover") == {
        "checkpoint": "prune.checkpoint",
        "tokens": "prepare_text.tokens",
        "keep": "prune.keep",
        "plan": "allocate.plan",
        "teacher": "import_model.checkpoint",
    }
    assert {"keep", "certificate"} <= set(dag["recover"].stage.outputs)
    published = inputs(dag, "publish")
    assert published["checkpoint"] == "recover.checkpoint"
    assert published["keep"] == "recover.keep"
    assert published["certificate"] == "recover.certificate"
    assert published["pruned"] == "evaluate:pruned.evaluation"
    assert inputs(dag, "report")["keep"] == "recover.keep"
    assert inputs(dag, "report")["pruned_keep"] == "prune.keep"
    assert ids(dag).index("prepare_text") < ids(dag).index("prune")  # a text too short is found out early


def test_every_checkpoint_is_put_to_every_task() -> None:
    evaluation = {"tasks": {"tasks": ["arc_easy", "boolq"]}}
    dag = planned(**{**PRUNED, "recovery": MODELLED, "evaluation": evaluation})
    check(dag)
    asked = [node for node in ids(dag) if node.startswith("tasks:")]
    assert asked == [
        f"tasks:{which}:{task}"
        for which in ("dense", "pruned", "recovered")
        for task in ("arc_easy", "boolq")
    ]
    assert set(asked) <= set(dag["publish"].inputs)


def test_where_a_text_lies_is_no_part_of_a_key() -> None:
    here = planned(**PRUNED, recovery=DISTILLED)
    there = planned(**PRUNED, recovery={**DISTILLED, "text": {**TEXT, "source": "s3://b/other.txt"}})
    assert keys(here) == keys(there)


@pytest.mark.parametrize(
    ("change", "changed"),
    [
        ({"steps": 51}, {"prepare_text", "recover"}),
        ({"precision": "bfloat16"}, {"recover"}),
        ({"learning_rate": {"peak": 1e-3}}, {"recover"}),
        ({"text": {**TEXT, "seed": 1}}, {"prepare_text", "recover"}),
    ],
)
def test_what_changes_the_result_changes_the_key(change: dict[str, Any], changed: set[str]) -> None:
    before = keys(planned(**PRUNED, recovery=DISTILLED))
    after = keys(planned(**PRUNED, recovery={**DISTILLED, **change}))
    assert {name for name in before if before[name] != after[name]} == changed


def test_dense_propagation_takes_one_sweep_for_allocation_and_method() -> None:
    solver = {**WANDA, "method": {"kind": "sparsegpt"}, "propagation": "dense"}
    dag = planned(calibration={**TEXT, "samples": 4}, prune=solver)
    check(dag)
    sweep = dag["measure_statistics"].stage
    assert isinstance(sweep, MeasureStatistics)
    assert sweep.needs == ("hessian", "input_norm")
    assert inputs(dag, "measure_blocks")["statistics"] == "measure_statistics.statistics"
    assert inputs(dag, "prune") == {
        "checkpoint": "import_model.checkpoint",
        "plan": "allocate.plan",
        "statistics": "measure_statistics.statistics",
    }


def test_measures_of_weights_alone_need_no_samples() -> None:
    prune = {**WANDA, "method": {"kind": "magnitude"}, "allocation": {"kind": "alpha_pruning"}}
    dag = planned(prune=prune)
    check(dag)
    assert "calibrate" not in ids(dag)
    assert "measure_statistics" not in ids(dag)
    assert inputs(dag, "measure_blocks") == {"checkpoint": "import_model.checkpoint"}
    assert inputs(dag, "publish")["measurements"] == "measure_blocks.measurements"


def test_a_tournament_prunes_under_every_candidate_and_takes_the_winners_masks() -> None:
    candidates = [{"kind": "owl", "spread": 0.1}, {"kind": "owl", "spread": 0.2}, {"kind": "alpha_pruning"}]
    prune = {**WANDA, "allocation": {"kind": "tournament", "candidates": candidates, "samples": 3}}
    dag = planned(calibration={**TEXT, "samples": 4}, prune=prune)
    check(dag)
    assert ids(dag)[:6] == [
        "import_model",
        "calibrate",
        "measure_statistics",
        "measure_blocks",
        "measure_blocks:1",
        "hold_out",
    ]
    for i in range(4):
        assert inputs(dag, f"prune:{i}")["plan"] == f"allocate:{i}.plan"
        assert inputs(dag, f"judge:{i}") == {
            "checkpoint": f"prune:{i}.checkpoint",
            "samples": "hold_out.samples",
        }
    assert inputs(dag, "allocate:0") == {"checkpoint": "import_model.checkpoint"}
    assert inputs(dag, "allocate:2")["measurements"] == "measure_blocks.measurements"
    assert inputs(dag, "allocate:3")["measurements"] == "measure_blocks:1.measurements"
    assert inputs(dag, "allocate") == {
        **{f"plan:{i}": f"allocate:{i}.plan" for i in range(4)},
        **{f"score:{i}": f"judge:{i}.score" for i in range(4)},
    }
    assert dag["prune"].stage == dag["prune:2"].stage  # with the same plan it is the same work
    assert inputs(dag, "report")["tournament"] == "allocate.tournament"
