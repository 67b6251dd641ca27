"""What a recovery adds to a job: its text, its teacher, and what is published of it."""

import pytest

from pipeline.dag.stages.sources import ImportModel, PrepareText
from pipeline.dag.stages.training import Recover
from tests.pipeline.dag.made_dags import DISTILLED, LAST, MODELLED, PRUNED, check, ids, inputs, pin, planned


def test_recovery_alone_trains_the_dense_model() -> None:
    dag = planned(recovery=MODELLED)
    check(dag)
    assert ids(dag) == [
        "import_model",
        "prepare_text",
        "recover",
        "evaluate:dense",
        "evaluate:recovered",
        *LAST,
    ]
    assert inputs(dag, "recover") == {
        "checkpoint": "import_model.checkpoint",
        "tokens": "prepare_text.tokens",
    }
    assert dag["recover"].stage.outputs == ("checkpoint", "curve")
    assert inputs(dag, "publish")["checkpoint"] == "recover.checkpoint"
    assert "keep" not in inputs(dag, "publish")


def test_a_teacher_of_its_own_is_imported_first() -> None:
    objective = {"kind": "distillation", "teacher": {"source": "file:/big"}}
    dag = planned(**PRUNED, recovery={**DISTILLED, "objective": objective})
    check(dag)
    stage = dag["import_teacher"].stage
    assert isinstance(stage, ImportModel)
    assert stage.files == pin("big").files
    assert inputs(dag, "recover")["teacher"] == "import_teacher.checkpoint"
    assert ids(dag).index("import_teacher") < ids(dag).index("prune")


def test_gradual_pruning_needs_no_pruning_before() -> None:
    keep = {"kind": "gradual", "sparsity": 0.5, "every_steps": 10}
    dag = planned(recovery={**MODELLED, "keep": keep})
    check(dag)
    assert set(inputs(dag, "recover")) == {"checkpoint", "tokens"}
    assert dag["recover"].stage.outputs == ("checkpoint", "curve", "keep", "certificate")
    assert inputs(dag, "publish")["keep"] == "recover.keep"


@pytest.mark.parametrize("trains", ["lora", "reconstruction", "norms_and_biases"])
def test_what_trains_decides_what_is_made(trains: str) -> None:
    dag = planned(**PRUNED, recovery={**MODELLED, "trains": {"kind": trains}})
    check(dag)
    assert ("adapter" in dag["recover"].stage.outputs) == (trains == "lora")
    assert ("adapter" in inputs(dag, "publish")) == (trains == "lora")
    assert ("teacher" in dag["recover"].inputs) == (trains == "reconstruction")


def test_needed_sequences_are_those_of_all_steps() -> None:
    dag = planned(
        recovery={**MODELLED, "steps": None, "tokens": 10_000, "learning_rate": {"warmup_steps": 1}}
    )
    prepare, recover = dag["prepare_text"].stage, dag["recover"].stage
    assert isinstance(prepare, PrepareText)
    assert isinstance(recover, Recover)
    assert prepare.sequences == 5 * 64  # 10 000 tokens are 4.9 steps of 64 sequences of 32
    assert recover.recovery.total_steps == 5
