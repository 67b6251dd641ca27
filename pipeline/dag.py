"""plan(spec, pins) -> Dag. Read `plan` top to bottom and you know the system."""

from collections.abc import Generator, Iterable, Iterator, Mapping

from pipeline.allocations import Candidate, Tournament
from pipeline.artifacts import ArtifactRef
from pipeline.canonical import Frozen, digest_of
from pipeline.evaluation import Evaluation
from pipeline.methods.base import Statistic
from pipeline.methods.maskllm import MaskLLM, StoredMasks
from pipeline.recovery import Recovery
from pipeline.sources.pins import Pin, Pins
from pipeline.sources.uri import parse_uri
from pipeline.spec import Prune, PruneSpec
from pipeline.stages import (
    Allocate,
    Calibrate,
    CheckTasks,
    ChoosePlan,
    CountTokens,
    CutVocabulary,
    Evaluate,
    EvaluateTask,
    HoldOut,
    ImportKeep,
    ImportModel,
    Judge,
    LearnMasks,
    MeasureBlocks,
    MeasureStatistics,
    PrepareText,
    PruneBlocks,
    Publish,
    Recover,
    Report,
    ReportSweep,
    Slice,
    Stage,
    stage_key,
)
from pipeline.training_recipe import TrainingRecipe
from pipeline.vocabulary.spec import VocabularySize


class Input(Frozen):
    """An artifact of an earlier node."""

    node: str
    artifact: str


DENSE = Input(node="import_model", artifact="checkpoint")
CUT_VOCABULARY = Input(node="cut_vocabulary", artifact="checkpoint")
CUT = Input(node="slice", artifact="checkpoint")
TEXT, MASK_TEXT = "prepare_text", "prepare_text:masks"


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
    return Dag(nodes=tuple(_nodes(spec, pins) if spec.sweep is None else _sweep_nodes(spec, pins)))


def _nodes(spec: PruneSpec, pins: Pins) -> Iterator[Node]:
    tokens = Input(node=TEXT, artifact="tokens")
    name = _model_name(spec)
    checkpoints = {"dense": DENSE}  # what is evaluated: name → checkpoint; the last one is published
    made: dict[str, Input] = {}  # what is published and reported beside the checkpoint
    told: dict[str, Input] = {}  # what is reported only

    yield from _source_nodes(spec, pins)

    if spec.structure is not None:
        yield from _slicing_nodes(spec)
        checkpoints["pruned"] = _to_prune(spec)
        if spec.cuts_vocabulary:
            made["vocabulary"] = Input(node="cut_vocabulary", artifact="vocabulary")
        if spec.structure.beside_vocabulary is not None:
            made["cut"] = Input(node="slice", artifact="cut")

    if spec.prune is not None:
        yield from _pruning_nodes(spec.prune, spec, pins)
        checkpoints["pruned"] = Input(node="prune", artifact="checkpoint")
        made["keep"] = Input(node="prune", artifact="keep")
        made["plan"] = Input(node="allocate", artifact="plan")
        if isinstance(spec.prune.method, MaskLLM):
            made["certificate"] = Input(node="prune", artifact="certificate")
            told["mask_curve"] = Input(node="prune", artifact="curve")
            told["mask_keep"] = made["keep"]  # recovery makes its own
            told["mask_tokens"] = Input(node=MASK_TEXT, artifact="tokens")
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
            **_teacher(spec, pins),
        }
        yield Node(id="recover", stage=recover, inputs=inputs)
        made |= {name: Input(node="recover", artifact=name) for name in recover.outputs}
        checkpoints["recovered"] = made.pop("checkpoint")

    for which, checkpoint in checkpoints.items():
        judges = list(_judging_nodes(which, checkpoint, spec, pins))
        yield from judges
        made |= _figures(which, judges)

    made["checkpoint"] = list(checkpoints.values())[-1]
    publish = Publish(model_name=name, spec=spec)
    if "curve" in made:  # has speeds: it is not published
        told["curve"] = made.pop("curve")
    yield Node(id="publish", stage=publish, inputs={**made, **_unpruned(spec)})

    told |= {artifact: Input(node="publish", artifact=artifact) for artifact in publish.outputs}
    told |= {f"{which}_checkpoint": checkpoint for which, checkpoint in checkpoints.items()}
    if spec.recovery is not None:
        told["tokens"] = tokens
    report = Report(model_name=name, spec=spec)
    yield Node(id="report", stage=report, inputs={**made, **told})


def _sweep_nodes(spec: PruneSpec, pins: Pins) -> Iterator[Node]:
    """All members' nodes, those that do the same once, and the table of what came of it."""
    members = {i: member.prune for i, member in enumerate(spec.members, start=1) if member.prune is not None}
    swept = frozenset[Statistic]().union(*(_swept(prune) for prune in members.values()))
    yield from _source_nodes(spec, pins)
    yield from _slicing_nodes(spec)
    dense = list(_judging_nodes("dense", DENSE, spec, pins))
    yield from dense
    told = _figures("dense", dense)
    shared = _Shared()
    for i, prune in members.items():
        nodes = [
            *_pruning_nodes(prune, spec, pins, swept=swept),
            *_judging_nodes("pruned", Input(node="prune", artifact="checkpoint"), spec, pins),
        ]
        names = yield from shared.new(nodes, member=i)
        told |= {
            f"plan@{i}": Input(node=names["allocate"], artifact="plan"),
            f"keep@{i}": Input(node=names["prune"], artifact="keep"),
        }
        for name, figure in _figures("pruned", nodes).items():
            told[f"{name}@{i}"] = Input(node=names[figure.node], artifact=figure.artifact)
    report = ReportSweep(model_name=_model_name(spec), spec=spec)
    yield Node(id="report", stage=report, inputs=told)


class _Shared:
    """Nodes of a sweep by what they do. A member's own are called `prune@3`."""

    def __init__(self) -> None:
        self._by_work: dict[str, str] = {}

    def new(self, nodes: Iterable[Node], *, member: int) -> Generator[Node, None, dict[str, str]]:
        """Those of a member that no member before it has; all of its ids → ids in the sweep."""
        names: dict[str, str] = {}
        for node in nodes:
            inputs = {
                name: one.model_copy(update={"node": names.get(one.node, one.node)})
                for name, one in node.inputs.items()
            }
            stage = node.stage.model_dump(mode="json")
            work = digest_of([stage, {name: one.model_dump() for name, one in inputs.items()}])
            if work not in self._by_work:
                taken = node.id in self._by_work.values()
                own = taken or not isinstance(node.stage, (MeasureStatistics, MeasureBlocks, HoldOut))
                self._by_work[work] = f"{node.id}@{member}" if own else node.id
                yield Node(id=self._by_work[work], stage=node.stage, inputs=inputs)
            names[node.id] = self._by_work[work]
        return names


def _source_nodes(spec: PruneSpec, pins: Pins) -> Iterator[Node]:
    """What everything begins with. What cannot be had fails the job here."""
    yield Node(id="import_model", stage=ImportModel(files=pins.model.files), inputs={})

    tasks = spec.evaluation.tasks
    if tasks is not None:
        include = pins.tasks.files if pins.tasks is not None else ()
        yield Node(id="check_tasks", stage=CheckTasks(tasks=tasks.asked, include=include), inputs={})

    if spec.structure is not None and spec.structure.vocabulary is not None:
        yield from _vocabulary_nodes(spec.structure.vocabulary, pins)

    if spec.prune is not None and isinstance(spec.prune.method, MaskLLM):
        assert pins.mask_text is not None, "masks are pinned with the text that they are learned on"
        recipe = spec.prune.method.training
        yield _text_node(MASK_TEXT, recipe, spec, pins.mask_text)

    if spec.recovery is not None:
        yield from _training_nodes(spec.recovery, spec, pins)

    if spec.calibration is not None and any(one.needs_calibration for one in (spec, *spec.members)):
        assert pins.calibration is not None, "a spec with calibration is pinned with it"
        stage = Calibrate(files=pins.calibration.files, calibration=spec.calibration)
        yield Node(id="calibrate", stage=stage, inputs={"checkpoint": _with_own_tokens(spec)})


def _vocabulary_nodes(vocabulary: VocabularySize, pins: Pins) -> Iterator[Node]:
    """Counted first: another size shares the counts."""
    count = CountTokens(
        files=tuple(pin.files for pin in pins.vocabulary),
        texts=vocabulary.texts,
        held_out=vocabulary.held_out,
    )
    yield Node(id="count_tokens", stage=count, inputs={"checkpoint": DENSE})
    counts = Input(node="count_tokens", artifact="counts")
    cut = CutVocabulary(size=vocabulary.size, multiple_of=vocabulary.multiple_of)
    yield Node(id="cut_vocabulary", stage=cut, inputs={"checkpoint": DENSE, "counts": counts})


def _with_own_tokens(spec: PruneSpec) -> Input:
    """The whole model with the tokens of the result: what reads text for it, and what teaches it."""
    return CUT_VOCABULARY if spec.cuts_vocabulary else DENSE


def _slicing_nodes(spec: PruneSpec) -> Iterator[Node]:
    """From a dense sweep, where activations decide, to the smaller model. One pass gives all scores."""
    structure = spec.structure.beside_vocabulary if spec.structure is not None else None
    if structure is None:
        return
    whole = _with_own_tokens(spec)
    inputs = {"checkpoint": whole}
    if structure.needs_samples:
        sweep = MeasureStatistics(needs=("channel_score", "similarity"), compute_dtype=spec.compute_dtype)
        samples = Input(node="calibrate", artifact="samples")
        yield Node(id="measure_structure", stage=sweep, inputs={"checkpoint": whole, "samples": samples})
        inputs["statistics"] = Input(node="measure_structure", artifact="statistics")
    yield Node(id="slice", stage=Slice(structure=structure), inputs=inputs)


def _judging_nodes(which: str, checkpoint: Input, spec: PruneSpec, pins: Pins) -> Iterator[Node]:
    """Perplexities, and a node for each task."""
    judge = Evaluate(
        texts=tuple(pin.files for pin in pins.perplexity),
        evaluation=_named(spec.evaluation),
        compute_dtype=spec.compute_dtype,
    )
    yield Node(id=f"evaluate:{which}", stage=judge, inputs={"checkpoint": checkpoint})
    tasks = spec.evaluation.tasks
    for task in tasks.asked if tasks is not None else ():
        assert tasks is not None, "there is one"
        ask = EvaluateTask(
            task=task, batch_size=tasks.batch_size, seed=tasks.seed, compute_dtype=spec.compute_dtype
        )
        asked = Input(node="check_tasks", artifact=task.name)
        yield Node(
            id=task_node(which, task.name), stage=ask, inputs={"checkpoint": checkpoint, "task": asked}
        )


def _figures(which: str, nodes: Iterable[Node]) -> dict[str, Input]:
    """What a checkpoint's judging nodes make, by the names that `publish` and `report` know."""
    return {
        which if isinstance(node.stage, Evaluate) else node.id: Input(
            node=node.id, artifact=node.stage.outputs[0]
        )
        for node in nodes
        if isinstance(node.stage, (Evaluate, EvaluateTask))
    }


def _pruning_nodes(
    prune: Prune, spec: PruneSpec, pins: Pins, *, swept: frozenset[Statistic] | None = None
) -> Iterator[Node]:
    """From a dense sweep, if anyone asks for what it measures, to the masks. `swept`: what it measures, if
    others ask too."""
    dense, method = _to_prune(spec), prune.method
    first = method.prior_method if isinstance(method, MaskLLM) else method
    samples = Input(node="calibrate", artifact="samples")
    statistics = Input(node="measure_statistics", artifact="statistics")
    measures, needs = prune.allocation.measures, method.needs
    if asked := _swept(prune):
        swept = asked if swept is None else swept
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
        assert first is not None, "masks that are learned from nothing have none"
        stage = PruneBlocks(
            method=first,
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

    planned = Input(node="allocate", artifact="plan")
    if not isinstance(method, MaskLLM):
        yield masks("prune", planned)  # of a tournament: found, the winner's
        return
    inputs = {"checkpoint": dense, "plan": planned, "tokens": Input(node=MASK_TEXT, artifact="tokens")}
    if first is not None:
        yield masks("prune:prior", planned)
        inputs["prior"] = Input(node="prune:prior", artifact="keep")
    elif isinstance(method.prior, StoredMasks):
        assert pins.prior is not None, "stored masks are pinned"
        stored = ImportKeep(files=pins.prior.files)
        yield Node(id="import_keep", stage=stored, inputs={"checkpoint": dense, "plan": planned})
        inputs["prior"] = Input(node="import_keep", artifact="keep")
    learn = LearnMasks(training=method.training, prior_strength=method.prior_strength)
    yield Node(id="prune", stage=learn, inputs=inputs)


def _to_prune(spec: PruneSpec) -> Input:
    """The model whose weights become zero: what structure leaves, if there is one."""
    if spec.structure is None or spec.structure.beside_vocabulary is None:
        return _with_own_tokens(spec)
    return CUT


def _unpruned(spec: PruneSpec) -> dict[str, Input]:
    """The weights that the published masks were chosen for, unless training has moved zeros since."""
    moved = spec.recovery is not None and spec.recovery.keep.kind != "held"
    return {} if spec.prune is None or moved else {"unpruned": _to_prune(spec)}


def _swept(prune: Prune) -> frozenset[Statistic]:
    """What a dense sweep is to measure; nothing where none is needed."""
    swept: frozenset[Statistic] = prune.method.needs if prune.propagation == "dense" else frozenset()
    if any(measure.needs_samples for measure in prune.allocation.measures):
        swept |= {"input_norm"}
    return swept


def _numbered(node: str, i: int) -> str:
    return node if i == 0 else f"{node}:{i}"


def _training_nodes(recovery: Recovery, spec: PruneSpec, pins: Pins) -> Iterator[Node]:
    """What training takes beside the student. Long before it: a text that is too short is found out here."""
    assert pins.recovery is not None, "a spec with recovery is pinned with its text"
    yield _text_node(TEXT, recovery, spec, pins.recovery)
    if pins.teacher is not None:
        yield Node(id="import_teacher", stage=ImportModel(files=pins.teacher.files), inputs={})


def _text_node(node: str, recipe: TrainingRecipe, spec: PruneSpec, pin: Pin) -> Node:
    prepare = PrepareText(files=pin.files, text=recipe.text, sequences=recipe.sequences)
    return Node(id=node, stage=prepare, inputs={"checkpoint": _with_own_tokens(spec)})


def _teacher(spec: PruneSpec, pins: Pins) -> dict[str, Input]:
    recovery = spec.recovery
    assert recovery is not None, "only training takes a teacher"
    if recovery.trains.kind == "reconstruction":  # block by block: the blocks before their weights went
        return {"teacher": _to_prune(spec)}
    if pins.teacher is not None:
        return {"teacher": Input(node="import_teacher", artifact="checkpoint")}
    return {"teacher": _with_own_tokens(spec)} if recovery.needs_teacher else {}


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
