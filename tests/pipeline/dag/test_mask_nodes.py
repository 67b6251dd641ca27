"""What becomes of masks in a job: imported, learned from, compared, and published with their weights."""

from pipeline.dag.stages.sources import ImportKeep
from tests.pipeline.dag.made_dags import MODELLED, PRUNED, TEXT, check, ids, inputs, keys, pin, planned


def test_masks_are_published_with_the_weights_that_they_were_chosen_for() -> None:
    assert inputs(planned(**PRUNED), "publish")["unpruned"] == "import_model.checkpoint"
    assert "unpruned" not in inputs(planned(**PRUNED), "report")
    held = planned(**PRUNED, recovery=MODELLED)
    assert inputs(held, "publish")["unpruned"] == "import_model.checkpoint"
    cut = planned(**PRUNED, structure={"drop_blocks": {"kind": "spaced", "num_blocks": 1}})
    assert inputs(cut, "publish")["unpruned"] == "slice.checkpoint"
    moved = planned(**PRUNED, recovery={**MODELLED, "keep": {"kind": "dynamic", "every_steps": 5}})
    assert "unpruned" not in inputs(moved, "publish")
    assert "unpruned" not in inputs(planned(recovery=MODELLED), "publish")


def test_stored_masks_are_imported_to_learn_from() -> None:
    prior = {"kind": "stored", "source": "s3://b/published/masks/masks.safetensors"}
    method = {"kind": "maskllm", "prior": prior, "training": {"text": TEXT, "steps": 50}}
    dag = planned(prune={"method": method, "pattern": {"kind": "nm", "keep": 2, "group": 4}})
    check(dag)
    stage = dag["import_keep"].stage
    assert isinstance(stage, ImportKeep)
    assert stage.files == pin("p").files
    assert inputs(dag, "import_keep") == {"checkpoint": "import_model.checkpoint", "plan": "allocate.plan"}
    assert inputs(dag, "prune")["prior"] == "import_keep.keep"


def test_masks_are_compared_with_those_they_began_with_and_those_that_are_named() -> None:
    learned = {"kind": "maskllm", "training": {"text": TEXT, "steps": 50}}
    prune = {"method": learned, "pattern": {"kind": "nm", "keep": 2, "group": 4}}
    calibrated = {"calibration": TEXT, "prune": prune}
    dag = planned(**calibrated)
    check(dag)
    assert dag["compare_masks"].stage.others == ("prior",)
    assert inputs(dag, "compare_masks") == {
        "checkpoint": "import_model.checkpoint",
        "plan": "allocate.plan",
        "keep": "prune.keep",
        "other:prior": "prune:prior.keep",
    }
    assert inputs(dag, "report")["agreements"] == "compare_masks.agreements"
    assert "agreements" not in inputs(dag, "publish")

    prune["compare_with"] = [{"name": "code", "source": "s3://b/code/masks.safetensors"}]
    both = planned(**calibrated)
    check(both)
    assert both["compare_masks"].stage.others == ("prior", "code")
    assert inputs(both, "import_keep:0") == {"checkpoint": "import_model.checkpoint"}
    assert inputs(both, "compare_masks")["other:code"] == "import_keep:0.keep"
    assert keys(both)["prune"] == keys(dag)["prune"]  # what is compared does not change what is made

    prune["method"] = {"kind": "magnitude"}
    chosen = planned(prune=prune)
    check(chosen)
    assert chosen["compare_masks"].stage.others == ("code",)
    assert "compare_masks" not in ids(planned(**PRUNED))
