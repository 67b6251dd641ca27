"""The part of a DAG that prunes: from a dense sweep, if its statistics are needed, to the masks."""

from collections.abc import Iterator

from pipeline.allocations import Candidate
from pipeline.allocations.contest import ContestAllocation
from pipeline.architecture.rows import row_for
from pipeline.artifacts.mask_overlap import PRIOR
from pipeline.dag.nodes import Input, Node
from pipeline.dag.stages.pruning import (
    Allocate,
    ChoosePlan,
    CompareMasks,
    MeasureBlocks,
    MeasureStatistics,
    PruneBlocks,
    ScoreHeldOut,
)
from pipeline.dag.stages.sources import HoldOut, ImportKeep
from pipeline.dag.stages.training import LearnMasks
from pipeline.methods.learned import LearnedMethod
from pipeline.request.prune_spec import Prune, PruneSpec
from pipeline.sources.pins import Pins
from pipeline.spec.stored_masks import StoredMasks
from pipeline.spec.texts import Calibration
from pipeline.tensor.needs import Statistic

DENSE = Input(node="import_model", artifact="checkpoint")
CUT_VOCABULARY = Input(node="cut_vocabulary", artifact="checkpoint")
CUT = Input(node="slice", artifact="checkpoint")
TEXT, MASK_TEXT = "prepare_text", "prepare_text:masks"


def pruning_nodes(
    prune: Prune, spec: PruneSpec, pins: Pins, *, swept: frozenset[Statistic] | None = None
) -> Iterator[Node]:
    """The nodes that make masks, after a dense sweep if its statistics are needed. `swept`: all statistics
    that the sweep measures, if other members of a sweep share it; by default, those that `prune` needs."""
    dense, method = to_prune(spec), prune.method
    first = method.prior_method if isinstance(method, LearnedMethod) else method
    samples = Input(node="calibrate", artifact="samples")
    statistics = Input(node="measure_statistics", artifact="statistics")
    measures, needs = prune.allocation.measures, method.needs
    if asked := swept_for(prune):
        swept = asked if swept is None else swept
        sweep = MeasureStatistics(
            needs=tuple(sorted(swept)),
            compute_dtype=spec.dtype,
            reproducible=spec.reproducible or "hessian" not in swept,
        )
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
        measures_hessians = "hessian" in needs and prune.propagation != "dense"
        adds_up = measures_hessians or prune.reconstruction is not None
        stage = PruneBlocks(
            method=first,
            propagation=prune.propagation,
            reconstruction=prune.reconstruction,
            compute_dtype=spec.dtype,
            reproducible=spec.reproducible or not adds_up,
        )
        inputs = {"checkpoint": dense, "plan": plan}
        if needs and prune.propagation == "dense":
            inputs["statistics"] = statistics
        if prune.reconstruction is not None or (needs and prune.propagation != "dense"):
            inputs["samples"] = samples
        return Node(id=node, stage=stage, inputs=inputs)

    if not isinstance(prune.allocation, ContestAllocation):
        yield allocate("allocate", prune.allocation)
    else:
        assert isinstance(spec.calibration, Calibration), "contests are calibrated on a text"
        held_out = HoldOut(
            files=pins.of("spec.calibration.source").files,
            calibration=spec.calibration,
            samples=prune.allocation.samples,
            pairs=row_for(pins.facts.model_type).pairs,
        )
        yield Node(id="hold_out", stage=held_out, inputs={"checkpoint": dense})
        scored: dict[str, Input] = {}
        for i, candidate in enumerate(prune.allocation.entrants):
            plan = scored[f"plan:{i}"] = Input(node=f"allocate:{i}", artifact="plan")
            yield allocate(plan.node, candidate)
            yield masks(f"prune:{i}", plan)
            scoring = {
                "checkpoint": Input(node=f"prune:{i}", artifact="checkpoint"),
                "samples": Input(node="hold_out", artifact="samples"),
            }
            score = ScoreHeldOut(compute_dtype=spec.dtype)
            yield Node(id=f"judge:{i}", stage=score, inputs=scoring)
            scored[f"score:{i}"] = Input(node=f"judge:{i}", artifact="score")
        yield Node(id="allocate", stage=ChoosePlan(tournament=prune.allocation), inputs=scored)

    planned = Input(node="allocate", artifact="plan")
    if not isinstance(method, LearnedMethod):
        yield masks("prune", planned)  # after a contest, the winner's masks are found in the cache
        return
    inputs = {"checkpoint": dense, "plan": planned, "tokens": Input(node=MASK_TEXT, artifact="tokens")}
    if first is not None:
        yield masks("prune:prior", planned)
        inputs["prior"] = Input(node="prune:prior", artifact="keep")
    elif isinstance(method.prior, StoredMasks):
        stored = ImportKeep(files=pins.of("spec.prune.method.prior.source").files)
        yield Node(id="import_keep", stage=stored, inputs={"checkpoint": dense, "plan": planned})
        inputs["prior"] = Input(node="import_keep", artifact="keep")
    learn = LearnMasks(training=method.training, prior_strength=method.prior_strength)
    yield Node(id="prune", stage=learn, inputs=inputs)


def comparing_nodes(pruned: Node, spec: PruneSpec, pins: Pins) -> Iterator[Node]:
    """The nodes that compare the masks of `pruned` with its prior and with `compare_with`; maybe none."""
    assert spec.prune is not None, "something was pruned"
    dense = to_prune(spec)
    beside = {PRIOR: pruned.inputs["prior"]} if "prior" in pruned.inputs else {}
    for i, masks in enumerate(spec.prune.compare_with):
        stage = ImportKeep(files=pins.of(f"spec.prune.compare_with.{i}.source").files)
        node = Node(id=f"import_keep:{i}", stage=stage, inputs={"checkpoint": dense})
        yield node
        beside[masks.name] = Input(node=node.id, artifact="keep")
    if not beside:
        return
    inputs = {
        "checkpoint": dense,
        "plan": Input(node="allocate", artifact="plan"),
        "keep": Input(node=pruned.id, artifact="keep"),
    }
    inputs |= {f"other:{name}": keep for name, keep in beside.items()}
    yield Node(id="compare_masks", stage=CompareMasks(others=tuple(beside)), inputs=inputs)


def to_prune(spec: PruneSpec) -> Input:
    """The model whose weights become zero: the smaller one, if structure makes the model smaller."""
    if spec.structure is None or spec.structure.beside_vocabulary is None:
        return with_own_tokens(spec)
    return CUT


def with_own_tokens(spec: PruneSpec) -> Input:
    """The whole model with the tokens of the result. Its tokenizer reads texts, and it is the teacher."""
    return CUT_VOCABULARY if spec.cuts_vocabulary else DENSE


def swept_for(prune: Prune) -> frozenset[Statistic]:
    """The statistics that a dense sweep has to measure; empty where no sweep is needed."""
    swept: frozenset[Statistic] = prune.method.needs if prune.propagation == "dense" else frozenset()
    if any(measure.needs_samples for measure in prune.allocation.measures):
        swept |= {"input_norm"}
    return swept


def _numbered(node: str, i: int) -> str:
    return node if i == 0 else f"{node}:{i}"
