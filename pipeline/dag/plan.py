"""plan(spec, pins) -> Dag. Read this file from top to bottom to learn how a job works."""

from collections.abc import Generator, Iterable, Iterator

from pipeline.allocations.contest import ContestAllocation
from pipeline.architecture.rows import row_for
from pipeline.canonical import digest_of
from pipeline.dag.evaluation import behaviour_nodes, evaluation_nodes, figures, prompt_files
from pipeline.dag.nodes import Dag, Input, Node
from pipeline.dag.pruning import (
    DENSE,
    MASK_TEXT,
    TEXT,
    comparing_nodes,
    pruning_nodes,
    swept_for,
    to_prune,
    with_own_tokens,
)
from pipeline.dag.quantizing import form_evaluations, forms, quantizing_nodes, read_backs
from pipeline.dag.serving import checks, export_nodes, exports, measure_nodes, measured, open_nodes
from pipeline.dag.stages.pruning import MeasureBlocks, MeasureStatistics
from pipeline.dag.stages.results import Publish, Report, ReportSweep, Verify
from pipeline.dag.stages.sources import (
    Calibrate,
    CalibrateSelf,
    CheckTasks,
    HoldOut,
    ImportModel,
    PrepareText,
)
from pipeline.dag.stages.structure import CountTokens, CutVocabulary, Slice, sweep_needs
from pipeline.dag.stages.training import Recover
from pipeline.request.bos import with_bos
from pipeline.request.compute_dtype import with_compute_dtype
from pipeline.request.prune_spec import JobRequest, PruneSpec
from pipeline.sources.pins import MODEL, TEACHER, Pin, Pins
from pipeline.spec.recovery import Recovery
from pipeline.spec.self_calibration import AnyCalibration
from pipeline.spec.texts import Calibration
from pipeline.spec.training_recipe import TrainingRecipe
from pipeline.spec.uri import parse_uri
from pipeline.spec.vocabulary import FIELD as VOCABULARY
from pipeline.spec.vocabulary import VocabularySize
from pipeline.tensor.needs import Statistic


def plan(spec: PruneSpec, pins: Pins, *, gpus: float = 0) -> Dag:
    """Plan all stages of a job with their inputs. Stages that the spec does not need are left out. `gpus`:
    those of each worker, which decide about the number type where the spec leaves it open."""
    spec = with_compute_dtype(with_bos(spec, pins.facts.model_type), pins.facts.config, gpus=gpus)
    return Dag(nodes=tuple(_nodes(spec, pins) if spec.sweep is None else _sweep_nodes(spec, pins)))


def plan_of(request: JobRequest, pins: Pins) -> Dag:
    """Plan all stages of a job, on the workers that it asks for."""
    return plan(request.spec, pins, gpus=request.resources.of("pruning").gpus_per_worker)


def _nodes(spec: PruneSpec, pins: Pins) -> Iterator[Node]:
    tokens = Input(node=TEXT, artifact="tokens")
    name = _model_name(spec)
    checkpoints = {"dense": DENSE}  # the checkpoints to evaluate, by name; the last one is published
    made: dict[str, Input] = {}  # artifacts that are published and reported beside the checkpoint
    report_inputs: dict[str, Input] = {}  # artifacts that are reported only

    yield from _source_nodes(spec, pins)

    if spec.structure is not None:
        yield from _slicing_nodes(spec)
        checkpoints["pruned"] = to_prune(spec)
        if spec.cuts_vocabulary:
            made["vocabulary"] = Input(node="cut_vocabulary", artifact="vocabulary")
        if spec.structure.beside_vocabulary is not None:
            made["cut"] = Input(node="slice", artifact="cut")

    if spec.prune is not None:
        pruning = list(pruning_nodes(spec.prune, spec, pins))
        comparing = list(comparing_nodes(pruning[-1], spec, pins))
        yield from [*pruning, *comparing]
        checkpoints["pruned"] = Input(node="prune", artifact="checkpoint")
        made["keep"] = Input(node="prune", artifact="keep")
        made["plan"] = Input(node="allocate", artifact="plan")
        if spec.learns_masks:
            made["certificate"] = Input(node="prune", artifact="certificate")
            report_inputs["mask_curve"] = Input(node="prune", artifact="curve")
            report_inputs["mask_tokens"] = Input(node=MASK_TEXT, artifact="tokens")
        if comparing:
            report_inputs["agreements"] = Input(node=comparing[-1].id, artifact="agreements")
        if isinstance(spec.prune.allocation, ContestAllocation):
            report_inputs["tournament"] = Input(node="allocate", artifact="tournament")
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
        if "keep" in made:  # training stores its keep tensors without the documents of pruning
            report_inputs["pruned_keep"] = made["keep"]
        made |= {name: Input(node="recover", artifact=name) for name in recover.outputs}
        checkpoints["recovered"] = made.pop("checkpoint")

    for which, checkpoint in checkpoints.items():
        evaluations = list(evaluation_nodes(which, checkpoint, spec, pins))
        yield from evaluations
        made |= figures(which, evaluations)

    for node in behaviour_nodes(checkpoints, spec, pins):
        yield node
        report_inputs[node.id] = Input(node=node.id, artifact="behaviour")

    made["checkpoint"] = list(checkpoints.values())[-1]
    publish = Publish(model_name=name, spec=spec)
    if "curve" in made:  # the curve has speeds, which differ between equal jobs, so it is not published
        report_inputs["curve"] = made.pop("curve")
    yield from quantizing_nodes(spec, pins, final=made["checkpoint"], keep=made.get("keep"))
    yield from export_nodes(spec, dense=DENSE, final=made["checkpoint"])
    inputs = {**made, **_unpruned(spec), **exports(spec), **forms(spec)}
    yield Node(id="publish", stage=publish, inputs=inputs)

    written = Input(node="publish", artifact="published")
    yield from open_nodes(spec, written)
    asked = {name: given for name, given in made.items() if name in ("checkpoint", "keep")}
    asked |= {**checks(spec), **read_backs(spec), "published": written}
    yield Node(id="verify", stage=Verify(), inputs=asked)
    yield from measure_nodes(spec, dense=DENSE, final=made["checkpoint"])

    report_inputs |= {artifact: Input(node="verify", artifact=artifact) for artifact in Verify.outputs}
    if "certificate" in publish.outputs:
        report_inputs["certificate"] = Input(node="publish", artifact="certificate")
    report_inputs |= {f"{which}_checkpoint": checkpoint for which, checkpoint in checkpoints.items()}
    report_inputs |= {**measured(spec), **forms(spec), **form_evaluations(spec)}
    if spec.recovery is not None:
        report_inputs["tokens"] = tokens
    report = Report(model_name=name, spec=spec)
    yield Node(id="report", stage=report, inputs={**made, **report_inputs})


def _sweep_nodes(spec: PruneSpec, pins: Pins) -> Iterator[Node]:
    """The nodes of all members, with equal work planned once, and the report that compares the members."""
    members = {i: member.prune for i, member in enumerate(spec.members, start=1) if member.prune is not None}
    swept = frozenset[Statistic]().union(*(swept_for(prune) for prune in members.values()))
    yield from _source_nodes(spec, pins)
    yield from _slicing_nodes(spec)
    dense = list(evaluation_nodes("dense", DENSE, spec, pins))
    yield from dense
    report_inputs = figures("dense", dense)
    shared = _Shared()
    for i, prune in members.items():
        nodes = [
            *pruning_nodes(prune, spec, pins, swept=swept),
            *evaluation_nodes("pruned", Input(node="prune", artifact="checkpoint"), spec, pins),
        ]
        names = yield from shared.new(nodes, member=i)
        report_inputs |= {
            f"plan@{i}": Input(node=names["allocate"], artifact="plan"),
            f"keep@{i}": Input(node=names["prune"], artifact="keep"),
        }
        for name, figure in figures("pruned", nodes).items():
            report_inputs[f"{name}@{i}"] = Input(node=names[figure.node], artifact=figure.artifact)
    report = ReportSweep(model_name=_model_name(spec), spec=spec)
    yield Node(id="report", stage=report, inputs=report_inputs)


class _Shared:
    """The nodes of a sweep, by the digest of their work. Nodes of one member have its number: `prune@3`."""

    def __init__(self) -> None:
        self._by_work: dict[str, str] = {}

    def new(self, nodes: Iterable[Node], *, member: int) -> Generator[Node, None, dict[str, str]]:
        """Yield the nodes of a member that no member before it has. Return all its ids → ids in the sweep."""
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
    """The nodes that read sources. They come first, so that a missing source fails the job early."""
    yield Node(id="import_model", stage=ImportModel(files=pins.of(MODEL).files), inputs={})

    tasks = spec.evaluation.tasks
    if tasks is not None:
        include = pins.of("spec.evaluation.tasks.include").files if tasks.include is not None else ()
        yield Node(id="check_tasks", stage=CheckTasks(tasks=tasks.asked, include=include), inputs={})

    if spec.structure is not None and spec.structure.vocabulary is not None:
        yield from _vocabulary_nodes(spec.structure.vocabulary, pins)

    if spec.learned_method is not None:
        text = pins.of("spec.prune.method.training.text.source")
        yield _text_node(MASK_TEXT, spec.learned_method.training, spec, text)

    if spec.recovery is not None:
        yield from _training_nodes(spec.recovery, spec, pins)

    if spec.calibration is not None and any(one.needs_calibration for one in (spec, *spec.members)):
        stage = _calibrating(spec.calibration, spec, pins)
        yield Node(id="calibrate", stage=stage, inputs={"checkpoint": with_own_tokens(spec)})


def _calibrating(calibration: AnyCalibration, spec: PruneSpec, pins: Pins) -> Calibrate | CalibrateSelf:
    """The stage that makes the samples, from documents or by the model itself."""
    if isinstance(calibration, Calibration):
        files, pairs = pins.of("spec.calibration.source").files, row_for(pins.facts.model_type).pairs
        return Calibrate(files=files, calibration=calibration, pairs=pairs)
    return CalibrateSelf(
        files=prompt_files(calibration.prompts, "spec.calibration.prompts", pins),
        calibration=calibration,
        begins=row_for(pins.facts.model_type).bos is not None,
        compute_dtype=spec.dtype,
    )


def _vocabulary_nodes(vocabulary: VocabularySize, pins: Pins) -> Iterator[Node]:
    """Count tokens and cut the vocabulary. The count has a node of its own, so that other sizes share it."""
    count = CountTokens(
        files=tuple(pin.files for pin in pins.below(vocabulary, VOCABULARY)),
        texts=vocabulary.texts,
        held_out=vocabulary.held_out,
    )
    yield Node(id="count_tokens", stage=count, inputs={"checkpoint": DENSE})
    counts = Input(node="count_tokens", artifact="counts")
    cut = CutVocabulary(size=vocabulary.size, multiple_of=vocabulary.multiple_of)
    yield Node(id="cut_vocabulary", stage=cut, inputs={"checkpoint": DENSE, "counts": counts})


def _slicing_nodes(spec: PruneSpec) -> Iterator[Node]:
    """The nodes that make the smaller model, after a dense sweep where activations decide. The sweep measures
    all scores in one pass."""
    structure = spec.structure.beside_vocabulary if spec.structure is not None else None
    if structure is None:
        return
    whole = with_own_tokens(spec)
    inputs = {"checkpoint": whole}
    if structure.needs_samples:
        sweep = MeasureStatistics(needs=sweep_needs(structure), compute_dtype=spec.dtype)
        samples = Input(node="calibrate", artifact="samples")
        yield Node(id="measure_structure", stage=sweep, inputs={"checkpoint": whole, "samples": samples})
        inputs["statistics"] = Input(node="measure_structure", artifact="statistics")
    yield Node(id="slice", stage=Slice(structure=structure), inputs=inputs)


def _unpruned(spec: PruneSpec) -> dict[str, Input]:
    """The weights that the published masks were chosen for, unless training has moved zeros since."""
    moved = spec.recovery is not None and spec.recovery.keep.kind != "held"
    return {} if spec.prune is None or moved else {"unpruned": to_prune(spec)}


def _training_nodes(recovery: Recovery, spec: PruneSpec, pins: Pins) -> Iterator[Node]:
    """The nodes that prepare text and teacher. They run long before training, so that a text that is too
    short fails the job early."""
    yield _text_node(TEXT, recovery, spec, pins.of("spec.recovery.text.source"))
    if TEACHER in pins.sources:
        yield Node(id="import_teacher", stage=ImportModel(files=pins.of(TEACHER).files), inputs={})


def _text_node(node: str, recipe: TrainingRecipe, spec: PruneSpec, pin: Pin) -> Node:
    prepare = PrepareText(files=pin.files, text=recipe.text, sequences=recipe.sequences)
    return Node(id=node, stage=prepare, inputs={"checkpoint": with_own_tokens(spec)})


def _teacher(spec: PruneSpec, pins: Pins) -> dict[str, Input]:
    recovery = spec.recovery
    assert recovery is not None, "only training takes a teacher"
    if recovery.trains.kind == "reconstruction":  # each block learns from itself before pruning
        return {"teacher": to_prune(spec)}
    if TEACHER in pins.sources:
        return {"teacher": Input(node="import_teacher", artifact="checkpoint")}
    return {"teacher": with_own_tokens(spec)} if recovery.needs_teacher else {}


def _model_name(spec: PruneSpec) -> str:
    return parse_uri(spec.model.source).location.rstrip("/").rsplit("/", 1)[-1] or "model"
