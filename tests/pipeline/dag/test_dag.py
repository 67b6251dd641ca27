"""Which stages a spec becomes, what each takes, and under which key its result is found again."""

from collections.abc import Mapping
from typing import Any

import pytest

from pipeline.artifacts.refs import (
    AdapterRef,
    ArtifactRef,
    CertificateRef,
    CheckpointRef,
    CountsRef,
    CurveRef,
    EvaluationRef,
    KeepRef,
    MeasurementsRef,
    PlanRef,
    SamplesRef,
    StatisticsRef,
    TokensRef,
    VocabularyRef,
)
from pipeline.dag.nodes import Dag, node_key
from pipeline.dag.plan import plan
from pipeline.dag.stages.pruning import MeasureStatistics
from pipeline.dag.stages.sources import ImportKeep, ImportModel, PrepareText
from pipeline.dag.stages.training import Recover
from pipeline.request.prune_spec import PruneSpec
from pipeline.sources.pins import Pin
from tests.made_pins import made_pin, made_pins

TEXT = {"source": "file:/t/text.txt", "sequence_length": 32}
WANDA = {
    "method": {"kind": "wanda"},
    "allocation": {"kind": "owl", "multiplier": 5, "spread": 0.08},
    "pattern": {"kind": "unstructured", "sparsity": 0.5},
}
DISTILLED = {"text": TEXT, "steps": 50, "objective": {"kind": "distillation"}}
MODELLED = {"text": TEXT, "steps": 50}
PRUNED = {"prune": WANDA, "calibration": {**TEXT, "samples": 4}}
ARTIFACTS: dict[str, ArtifactRef] = {
    "checkpoint": CheckpointRef(files=()),
    "samples": SamplesRef(files=()),
    "statistics": StatisticsRef(files=()),
    "measurements": MeasurementsRef(files=()),
    "plan": PlanRef(files=()),
    "keep": KeepRef(files=()),
    "evaluation": EvaluationRef(files=()),
    "tokens": TokensRef(files=()),
    "curve": CurveRef(files=()),
    "certificate": CertificateRef(files=()),
    "adapter": AdapterRef(files=()),
    "counts": CountsRef(files=()),
    "vocabulary": VocabularyRef(files=()),
}
# They change with the version of a stage only: what is stored of a pruning job stays good.
KEYS = {
    "import_model": "27e2e3e2c1d8c24388141f91c9412132b9eacca2d9916c24e2a184d7e06c5096",
    "calibrate": "ce934eec83b7b16607458fdcfba7215cc73c5a927f03bb83c6dd2bc61ff2e310",
    "measure_statistics": "d118ee2d3de80ebb2e226c5a32112d28a73d62693e39e225c58bd11e6ed60640",
    "measure_blocks": "a6803995ec98d316b079f91e6975bdd10fd6d86779db7ef8702bbb72bac20c29",
    "allocate": "8fa33ad56451a43f8942adf33d3574bdb37b0ae0681c10685e8db7c0d4056a55",
    "prune": "89c54a0255e309ebc5202aec8ad94d35a5505c597f7ead3e5a53468129acb3e0",
    "evaluate:dense": "45fa62b824a1d75f9f2c2c9613b71540c98f68bc2af4b31e55d763eeddb53d5e",
    "evaluate:pruned": "45fa62b824a1d75f9f2c2c9613b71540c98f68bc2af4b31e55d763eeddb53d5e",
}


FILES = {
    "spec.model.source": "m",
    "spec.calibration.source": "t",
    "spec.evaluation.perplexity.0.source": "t",
    "spec.structure.vocabulary.texts.0.source": "v",
    "spec.structure.vocabulary.held_out.source": "h",
    "spec.recovery.text.source": "r",
    "spec.recovery.objective.teacher.source": "big",
    "spec.prune.method.training.text.source": "k",
    "spec.prune.method.prior.source": "p",
    "spec.prune.compare_with.0.source": "c",
}


LAST = ("publish", "verify", "report")


def planned(**parts: Any) -> Dag:
    spec = PruneSpec.model_validate(
        {"model": {"source": "file:/m/tiny"}, "evaluation": {"perplexity": [TEXT]}, **parts}
    )
    return plan(spec, made_pins(spec, pin=lambda field: pin(FILES[field.path])))


def pin(name: str) -> Pin:
    return made_pin(f"file:/{name}", path=name)


def keys(dag: Dag) -> dict[str, str | None]:
    """Keys of all nodes but the last three, if every artifact were empty."""
    made = {
        node.id: {name: ARTIFACTS[name] for name in node.stage.outputs if name in ARTIFACTS}
        for node in dag.nodes
    }
    return {node.id: node_key(node, made) for node in dag.nodes if node.id not in LAST}


def ids(dag: Dag) -> list[str]:
    return [node.id for node in dag.nodes]


def inputs(dag: Dag, node: str) -> Mapping[str, str]:
    return {name: f"{given.node}.{given.artifact}" for name, given in dag[node].inputs.items()}


def check(dag: Dag) -> None:
    """Every input is an output of an earlier node."""
    outputs: dict[str, tuple[str, ...]] = {}
    for node in dag.nodes:
        for name, given in node.inputs.items():
            assert given.artifact in outputs[given.node], (node.id, name)
        assert node.id not in outputs
        outputs[node.id] = node.stage.outputs


def test_keys_of_a_pruning_job_are_what_they_were() -> None:
    dag = planned(**PRUNED)
    check(dag)
    assert keys(dag) == KEYS
    assert inputs(dag, "publish")["checkpoint"] == "prune.checkpoint"


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


def test_needed_sequences_are_those_of_all_steps() -> None:
    dag = planned(
        recovery={**MODELLED, "steps": None, "tokens": 10_000, "learning_rate": {"warmup_steps": 1}}
    )
    prepare, recover = dag["prepare_text"].stage, dag["recover"].stage
    assert isinstance(prepare, PrepareText)
    assert isinstance(recover, Recover)
    assert prepare.sequences == 5 * 64  # 10 000 tokens are 4.9 steps of 64 sequences of 32
    assert recover.recovery.total_steps == 5


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


def test_a_cut_comes_before_masks_and_training() -> None:
    graph = planned(
        structure={"intermediate_size": 96, "drop_blocks": {"kind": "spaced", "num_blocks": 2}},
        **PRUNED,
        recovery=DISTILLED,
    )
    check(graph)
    order = ids(graph)
    assert order.index("measure_structure") < order.index("slice") < order.index("prune")
    dense, cut = ("import_model", "checkpoint"), ("slice", "checkpoint")

    def taken(node: str, name: str = "checkpoint") -> tuple[str, str]:
        one = graph[node].inputs[name]
        return one.node, one.artifact

    assert taken("slice") == taken("measure_structure") == dense
    assert taken("prune") == taken("allocate") == taken("measure_statistics") == cut
    assert taken("recover", "teacher") == dense
    assert taken("evaluate:pruned") == ("prune", "checkpoint")
    alone = planned(structure={"intermediate_size": 96, "criterion": {"kind": "magnitude"}})
    assert "measure_structure" not in ids(alone)
    assert alone["evaluate:pruned"].inputs["checkpoint"].node == "slice"
    assert alone["publish"].inputs["checkpoint"].node == "slice"


def test_blocks_are_fitted_to_those_that_were_cut() -> None:
    graph = planned(
        structure={"intermediate_size": 96, "criterion": {"kind": "random"}},
        **PRUNED,
        recovery={**MODELLED, "trains": {"kind": "reconstruction"}},
    )
    assert graph["recover"].inputs["teacher"].node == "slice"


CORPUS = {"source": "file:/t/text.txt"}
VOCABULARY = {"size": 64, "texts": [CORPUS], "held_out": CORPUS}


def test_a_vocabulary_is_cut_before_all_else_and_its_model_reads_teaches_and_is_cut() -> None:
    cut = {"vocabulary": VOCABULARY, "hidden_size": 32}
    dag = planned(**PRUNED, structure=cut, recovery=DISTILLED)
    check(dag)
    assert inputs(dag, "count_tokens") == {"checkpoint": "import_model.checkpoint"}
    assert inputs(dag, "cut_vocabulary") == {
        "checkpoint": "import_model.checkpoint",
        "counts": "count_tokens.counts",
    }
    for node in ("calibrate", "prepare_text", "measure_structure", "slice"):
        assert inputs(dag, node)["checkpoint"] == "cut_vocabulary.checkpoint", node
    for node in ("measure_statistics", "prune"):
        assert inputs(dag, node)["checkpoint"] == "slice.checkpoint", node
    assert inputs(dag, "recover")["teacher"] == "cut_vocabulary.checkpoint"
    assert inputs(dag, "evaluate:dense")["checkpoint"] == "import_model.checkpoint"
    for node in ("publish", "report"):
        assert inputs(dag, node)["vocabulary"] == "cut_vocabulary.vocabulary"
        assert inputs(dag, node)["cut"] == "slice.cut"


def test_a_vocabulary_alone_needs_no_slice() -> None:
    dag = planned(structure={"vocabulary": VOCABULARY})
    check(dag)
    assert ids(dag) == [
        "import_model",
        "count_tokens",
        "cut_vocabulary",
        "evaluate:dense",
        "evaluate:pruned",
        *LAST,
    ]
    assert inputs(dag, "publish")["checkpoint"] == "cut_vocabulary.checkpoint"
    assert "cut" not in inputs(dag, "publish")


def test_another_size_of_vocabulary_shares_the_counts() -> None:
    one, other = (keys(planned(structure={"vocabulary": {**VOCABULARY, "size": size}})) for size in (64, 128))
    assert one["count_tokens"] == other["count_tokens"]
    assert one["cut_vocabulary"] != other["cut_vocabulary"]
