"""plan(spec, pins) -> Dag. Read `plan` top to bottom and you know the system."""

from collections.abc import Iterator, Mapping

from pipeline.allocations import Candidate, Tournament
from pipeline.artifacts import ArtifactRef
from pipeline.canonical import Frozen
from pipeline.evaluation import Evaluation
from pipeline.recovery import Recovery
from pipeline.sources.pins import Pins
from pipeline.sources.uri import parse_uri
from pipeline.spec import Prune, PruneSpec
from pipeline.stages import (
    Allocate,
    Calibrate,
    CheckTasks,
    ChoosePlan,
    Evaluate,
    EvaluateTask,
    HoldOut,
    ImportModel,
    Judge,
    MeasureBlocks,
    MeasureStatistics,
    PrepareText,
    PruneBlocks,
    Publish,
    Recover,
    Report,
    Stage,
    stage_key,
)


class Input(Frozen):
    """An artifact of an earlier node."""

    node: str
    artifact: str


class Node(Frozen):
    """One stage of one job. `inputs`: the runner's name for each artifact → where it comes from."""

    id: str
    stage: Stage
    inputs: dict[str, Input]

    @property
    def needs(self) -> frozenset[str]:
        """Ids of the nodes that must be done first."""
        return frozenset(source.node for source in self.inputs.values())


class Dag(Frozen):
    """Nodes in an order in which they may run one after the other."""

    nodes: tuple[Node, ...]

    def __getitem__(self, node_id: str) -> Node:
        for node in self.nodes:
            if node.id == node_id:
                return node
        raise KeyError(node_id)


def plan(spec: PruneSpec, pins: Pins) -> Dag:
    """All stages of a job with their inputs; stages that nothing asks for are left out."""
    return Dag(nodes=tuple(_nodes(spec, pins)))


def _nodes(spec: PruneSpec, pins: Pins) -> Iterator[Node]:
    dense = Input(node="import_model", artifact="checkpoint")
    samples = Input(node="calibrate", artifact="samples")
    tokens = Input(node="prepare_text", artifact="tokens")
    name = _model_name(spec)
    dtype = spec.compute_dtype
    tasks = spec.evaluation.tasks
    checkpoints = {"dense": dense}  # what is evaluated: name → checkpoint; the last one is published
    made: dict[str, Input] = {}  # what is published and reported beside the checkpoint
    told: dict[str, Input] = {}  # what is reported only

    yield Node(id="import_model", stage=ImportModel(files=pins.model.files), inputs={})

    if tasks is not None:
        include = pins.tasks.files if pins.tasks is not None else ()
        yield Node(id="check_tasks", stage=CheckTasks(tasks=tasks.asked, include=include), inputs={})

    if spec.recovery is not None:
        yield from _training_nodes(spec.recovery, pins, dense=dense)

    if spec.calibration is not None and spec.needs_calibration:
        assert pins.calibration is not None, "a spec with calibration is pinned with it"
        stage = Calibrate(files=pins.calibration.files, calibration=spec.calibration)
        yield Node(id="calibrate", stage=stage, inputs={"checkpoint": dense})

    if spec.prune is not None:
        yield from _pruning_nodes(spec.prune, spec, pins, dense=dense, samples=samples)
        checkpoints["pruned"] = Input(node="prune", artifact="checkpoint")
        made["keep"] = Input(node="prune", artifact="keep")
        made["plan"] = Input(node="allocate", artifact="plan")
        if isinstance(spec.prune.allocation, Tournament):
            told["tournament"] = Input(node="allocate", artifact="tournament")
        elif spec.prune.allocation.measure is not None:
            made["measurements"] = Input(node="measure_blocks", artifact="measurements")

    if spec.recovery is not None:
        recover = Recover(recovery=spec.recovery, sparse=spec.makes_zeros)
        inputs = {
            "checkpoint": list(checkpoints.values())[-1],
            "tokens": tokens,
            **{name: made[name] for name in ("keep", "plan") if name in made},
            **_teacher(spec.recovery, pins, dense=dense),
        }
        yield Node(id="recover", stage=recover, inputs=inputs)
        made |= {name: Input(node="recover", artifact=name) for name in recover.outputs}
        checkpoints["recovered"] = made.pop("checkpoint")

    judge = Evaluate(
        texts=tuple(pin.files for pin in pins.perplexity),
        evaluation=_named(spec.evaluation),
        compute_dtype=dtype,
    )
    for which, checkpoint in checkpoints.items():
        yield Node(id=f"evaluate:{which}", stage=judge, inputs={"checkpoint": checkpoint})
        made[which] = Input(node=f"evaluate:{which}", artifact="evaluation")

    if tasks is not None:
        for which, checkpoint in checkpoints.items():
            for task in tasks.asked:
                asked = Input(node="check_tasks", artifact=task.name)
                ask = EvaluateTask(
                    task=task, batch_size=tasks.batch_size, seed=tasks.seed, compute_dtype=dtype
                )
                node = task_node(which, task.name)
                yield Node(id=node, stage=ask, inputs={"checkpoint": checkpoint, "task": asked})
                made[node] = Input(node=node, artifact="tasks")

    made["checkpoint"] = list(checkpoints.values())[-1]
    publish = Publish(model_name=name, spec=spec)
    if "curve" in made:  # has speeds: it is not published
        told["curve"] = made.pop("curve")
    yield Node(id="publish", stage=publish, inputs=made)

    told |= {artifact: Input(node="publish", artifact=artifact) for artifact in publish.outputs}
    told |= {f"{which}_checkpoint": checkpoint for which, checkpoint in checkpoints.items()}
    if spec.recovery is not None:
        told["tokens"] = tokens
    report = Report(model_name=name, spec=spec)
    yield Node(id="report", stage=report, inputs={**made, **told})


def _pruning_nodes(
    prune: Prune, spec: PruneSpec, pins: Pins, *, dense: Input, samples: Input
) -> Iterator[Node]:
    """From a dense sweep, if anyone asks for what it measures, to the masks."""
    statistics = Input(node="measure_statistics", artifact="statistics")
    measures, needs = prune.allocation.measures, prune.method.needs
    swept = needs if prune.propagation == "dense" else frozenset()
    if any(measure.needs_samples for measure in measures):
        swept |= {"input_norm"}
    if swept:
        sweep = MeasureStatistics(needs=tuple(sorted(swept)), compute_dtype=spec.compute_dtype)
        yield Node(id="measure_statistics", stage=sweep, inputs={"checkpoint": dense, "samples": samples})

    for i, measure in enumerate(measures):
        known = {"statistics": statistics} if measure.needs_samples else {}
        yield Node(
            id=_numbered("measure_blocks", i),
            stage=MeasureBlocks(measure=measure),
            inputs={"checkpoint": dense, **known},
        )

    def allocate(node: str, allocation: Candidate) -> Node:
        inputs = {"checkpoint": dense}
        if allocation.measure is not None:
            measuring = _numbered("measure_blocks", measures.index(allocation.measure))
            inputs["measurements"] = Input(node=measuring, artifact="measurements")
        return Node(id=node, stage=Allocate(allocation=allocation, pattern=prune.pattern), inputs=inputs)

    def masks(node: str, plan: Input) -> Node:
        stage = PruneBlocks(
            method=prune.method,
            propagation=prune.propagation,
            reconstruction=prune.reconstruction,
            compute_dtype=spec.compute_dtype,
        )
        inputs = {"checkpoint": dense, "plan": plan}
        if needs and prune.propagation == "dense":
            inputs["statistics"] = statistics
        if prune.reconstruction is not None or (needs and prune.propagation != "dense"):
            inputs["samples"] = samples
        return Node(id=node, stage=stage, inputs=inputs)

    if not isinstance(prune.allocation, Tournament):
        yield allocate("allocate", prune.allocation)
    else:
        assert spec.calibration is not None, "tournaments are calibrated"
        assert pins.calibration is not None, "a spec with calibration is pinned with it"
        held_out = HoldOut(
            files=pins.calibration.files, calibration=spec.calibration, samples=prune.allocation.samples
        )
        yield Node(id="hold_out", stage=held_out, inputs={"checkpoint": dense})
        scored: dict[str, Input] = {}
        for i, candidate in enumerate(prune.allocation.entrants):
            plan = scored[f"plan:{i}"] = Input(node=f"allocate:{i}", artifact="plan")
            yield allocate(plan.node, candidate)
            yield masks(f"prune:{i}", plan)
            judged = {
                "checkpoint": Input(node=f"prune:{i}", artifact="checkpoint"),
                "samples": Input(node="hold_out", artifact="samples"),
            }
            yield Node(id=f"judge:{i}", stage=Judge(compute_dtype=spec.compute_dtype), inputs=judged)
            scored[f"score:{i}"] = Input(node=f"judge:{i}", artifact="score")
        yield Node(id="allocate", stage=ChoosePlan(tournament=prune.allocation), inputs=scored)

    yield masks("prune", Input(node="allocate", artifact="plan"))  # of a tournament: found, the winner's


def _numbered(node: str, i: int) -> str:
    return node if i == 0 else f"{node}:{i}"


def _training_nodes(recovery: Recovery, pins: Pins, *, dense: Input) -> Iterator[Node]:
    """What training takes beside the student. Long before it: a text that is too short is found out here."""
    assert pins.recovery is not None, "a spec with recovery is pinned with its text"
    prepare = PrepareText(files=pins.recovery.files, text=recovery.text, sequences=recovery.sequences)
    yield Node(id="prepare_text", stage=prepare, inputs={"checkpoint": dense})
    if pins.teacher is not None:
        yield Node(id="import_teacher", stage=ImportModel(files=pins.teacher.files), inputs={})


def _teacher(recovery: Recovery, pins: Pins, *, dense: Input) -> dict[str, Input]:
    if pins.teacher is not None:
        return {"teacher": Input(node="import_teacher", artifact="checkpoint")}
    return {"teacher": dense} if recovery.needs_teacher else {}


def task_node(which: str, task: str) -> str:
    """Id of the node that puts the `dense`, `pruned` or `recovered` checkpoint to a task. `publish` and
    `report` take its figures under the same name."""
    return f"tasks:{which}:{task}"


def resolve_inputs(
    node: Node, made: Mapping[str, Mapping[str, ArtifactRef]]
) -> dict[str, ArtifactRef] | None:
    """The artifacts that a node takes; None if one is missing. `made`: node id → artifact name → artifact."""
    found = {}
    for name, source in node.inputs.items():
        artifact = made.get(source.node, {}).get(source.artifact)
        if artifact is None:
            return None
        found[name] = artifact
    return found


def node_key(node: Node, made: Mapping[str, Mapping[str, ArtifactRef]]) -> str | None:
    """Stage key of a node; None while an input is still to be made."""
    inputs = resolve_inputs(node, made)
    return None if inputs is None else stage_key(node.stage, inputs)


def _model_name(spec: PruneSpec) -> str:
    return parse_uri(spec.model.source).location.rstrip("/").rsplit("/", 1)[-1] or "model"


def _named(evaluation: Evaluation) -> Evaluation:
    """Names fixed, because stage keys leave the sources out."""
    texts = tuple(text.model_copy(update={"name": text.label}) for text in evaluation.perplexity)
    return Evaluation(perplexity=texts)
