"""Specs as DAGs: planned, checked, and read by names."""

from collections.abc import Mapping
from typing import Any

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
