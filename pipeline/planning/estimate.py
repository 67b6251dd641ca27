"""The expected cost of every stage of a job."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from pipeline.architecture.rows import row_for
from pipeline.dag.nodes import Node
from pipeline.dag.stages.pruning import MeasureBlocks, MeasureStatistics, PruneBlocks, ScoreHeldOut
from pipeline.dag.stages.quantizing import Quantize, RoundBlocks
from pipeline.dag.stages.results import Behave, Evaluate, EvaluateTask, Publish
from pipeline.dag.stages.sources import ImportModel
from pipeline.dag.stages.training import LearnMasks, Recover
from pipeline.errors import UnsupportedCheckpoint
from pipeline.job.estimate import Estimate
from pipeline.methods.sparsegpt import SparseGPT
from pipeline.planning.evaluating import perplexity_cost, whole_model_cost
from pipeline.planning.machine import cpus, gpu_of
from pipeline.planning.place import NONE, Cost, Place, Samples
from pipeline.planning.pruning import Walk, walk_cost
from pipeline.planning.recovering import learning_cost, recovery_cost
from pipeline.planning.shape import ModelShape, shape_of
from pipeline.planning.solving import FLOAT, RANKING_PASSES
from pipeline.planning.storing import WRITTEN, reading
from pipeline.request.parts import Part
from pipeline.request.prune_spec import JobRequest
from pipeline.resolve.training_memory import WIDTH
from pipeline.sources.pins import TEACHER, ModelFacts, Pins
from pipeline.spec.evaluation import PerplexityText
from pipeline.spec.model import Dtype
from pipeline.structure.sizes import sizes_of

CHARACTERS_PER_TOKEN = 4  # of English text
CHECKPOINT_WIDTH = 2  # bytes of a weight whose config.json states no other type
# GPTQ takes the same Hessians as SparseGPT, and the same steps through the columns.
ROUNDING = Walk(runs=2, measures=frozenset({"hessian"}), method=SparseGPT())


def estimates(request: JobRequest, pins: Pins, nodes: Sequence[Node]) -> tuple[Estimate, ...]:
    """The expected costs of those nodes of which something can be told, in plan order. A model whose
    config.json does not state its sizes has none."""
    shapes = _shapes(request, pins)
    return () if shapes is None else tuple(_Estimator(request, pins, *shapes).all(nodes))


def _shapes(request: JobRequest, pins: Pins) -> tuple[ModelShape, ModelShape] | None:
    """The dense model, and the one that is pruned, which structure may have made smaller."""
    row, config, structure = row_for(pins.facts.model_type), pins.facts.config, request.spec.structure
    try:
        old = sizes_of(row, config)
    except UnsupportedCheckpoint:
        return None
    new = old if structure is None else structure.target(row, config)
    return shape_of(row, config, old), shape_of(row, config, new)


@dataclass(frozen=True)
class _Estimator:
    """The facts that the costs of all nodes follow from."""

    request: JobRequest
    pins: Pins
    dense: ModelShape
    cut: ModelShape

    def all(self, nodes: Sequence[Node]) -> Iterator[Estimate]:
        """The estimates of the nodes that have one."""
        for node in nodes:
            found = self._cost(node)
            if found is None:
                continue
            cost, place = found
            yield Estimate(
                node=node.id,
                device=place.machine.name,
                workers=place.workers,
                seconds=cost.seconds,
                parts=cost.parts,
                memory_bytes=cost.host,
                gpu_memory_bytes=cost.gpu or None,
            )

    def _cost(self, node: Node) -> tuple[Cost, Place] | None:
        """The cost of a node, and where it runs; None if nothing can be told."""
        stage, shape = node.stage, self._shape(node)
        match stage:
            case ImportModel():
                return self._copied(sum(file.size for file in stage.files))
            case Publish() | Quantize():
                return self._copied(shape.weights * self._stored)
            case MeasureStatistics():
                place = self._place(stage.compute_dtype)
                walk = Walk(measures=frozenset(stage.needs))
                return walk_cost(shape, self._calibration(), place, walk), place
            case MeasureBlocks():
                place = self._place("float32")
                passes = RANKING_PASSES * FLOAT / place.machine.bandwidth
                parts = {
                    "read": reading(shape.weights * self._stored),
                    "compute": passes * shape.weights / place.workers,
                }
                return Cost(seconds=max(parts.values()), parts=parts), place
            case PruneBlocks():
                place = self._place(stage.compute_dtype)
                return walk_cost(shape, self._calibration(), place, _walk(stage)), place
            case RoundBlocks():
                place = self._place(stage.compute_dtype)
                return walk_cost(shape, self._calibration(), place, ROUNDING), place
            case ScoreHeldOut():
                place = self._place(stage.compute_dtype)
                return perplexity_cost(shape, self._calibration(), place), place
            case Evaluate():
                place = self._place(stage.compute_dtype)
                windows = self._windows(stage)
                found = perplexity_cost(shape, windows or NONE, place)
                return (found if windows is not None else replace(found, seconds=None, parts={})), place
            case EvaluateTask() | Behave():
                place = replace(self._place(stage.compute_dtype, "evaluation"), workers=1)
                gpus = math.ceil(self.request.resources.of("evaluation").gpus_per_worker)
                return whole_model_cost(shape, place, gpus=gpus), place
            case Recover():
                place = self._place(stage.recovery.precision, "recovery")
                resources = self.request.resources
                teacher = self._teacher() if stage.recovery.needs_teacher else None
                pins, sparse = self.pins, stage.sparse
                return recovery_cost(
                    shape, stage.recovery, resources, place, pins=pins, sparse=sparse, teacher=teacher
                ), place
            case LearnMasks():
                place = self._place(stage.training.precision, "recovery")
                prune = self.request.spec.prune
                assert prune is not None, "masks are learned for it"
                facts, resources = self.pins.facts, self.request.resources
                return learning_cost(
                    shape, stage.training, prune.pattern, resources, place, facts=facts
                ), place
            case _:
                return None

    def _shape(self, node: Node) -> ModelShape:
        """The model that a node reads."""
        given = node.inputs.get("checkpoint")
        return self.dense if given is None or given.node in ("import_model", "cut_vocabulary") else self.cut

    def _place(self, dtype: Dtype, part: Part = "pruning") -> Place:
        share = self.request.resources.of(part)
        machine = gpu_of(share.gpu_memory_bytes) if share.gpus_per_worker else cpus(share.cpus_per_worker)
        return Place(machine, workers=share.workers, width=WIDTH[dtype], stored=self._stored)

    def _copied(self, size: int) -> tuple[Cost, Place]:
        place = replace(self._place("float32"), workers=1)
        return Cost(seconds=size / WRITTEN, parts={"store": size / WRITTEN}), place

    @property
    def _stored(self) -> int:
        """The bytes of a weight in the model's files."""
        config = self.pins.facts.config
        stated = config.get("dtype", config.get("torch_dtype"))
        return FLOAT if stated == "float32" else CHECKPOINT_WIDTH

    def _calibration(self) -> Samples:
        asked = self.request.spec.calibration
        return NONE if asked is None else Samples(asked.samples, asked.sequence_length)

    def _windows(self, stage: Evaluate) -> Samples | None:
        """All windows, as if they were as long as the longest; None if the size of a text is not known."""
        texts = stage.evaluation.perplexity
        counts = [
            _count(text, sum(file.size for file in files))
            for text, files in zip(texts, stage.texts, strict=True)
        ]
        if not texts:
            return NONE
        longest = max(text.sequence_length for text in texts)
        tokens = 0
        for text, count in zip(texts, counts, strict=True):
            if count is None:
                return None
            tokens += count * text.sequence_length
        return Samples(-(-tokens // longest), longest)

    def _teacher(self) -> ModelShape:
        facts: ModelFacts = self.pins.models.get(TEACHER, self.pins.facts)
        row = row_for(facts.model_type)
        try:
            return shape_of(row, facts.config, sizes_of(row, facts.config))
        except UnsupportedCheckpoint:
            return self.dense


def _walk(stage: PruneBlocks) -> Walk:
    """What pruning does with each block: it runs twice, or once where linears are decided in its forward
    pass; statistics of the dense model were measured before."""
    measures = stage.method.needs if stage.propagation != "dense" else frozenset()
    runs = {"pruned": 2, "linear": 1, "dense": 0}[stage.propagation] if measures else 0
    if stage.reconstruction is not None:
        runs = max(runs, 1)
    return Walk(
        runs=runs,
        pauses=stage.propagation == "linear" and bool(measures),
        measures=measures,
        method=stage.method,
        reconstruction=stage.reconstruction,
    )


def _count(text: PerplexityText, size: int) -> int | None:
    """The number of windows of a text whose files have `size` bytes."""
    if text.windows is not None:
        return text.windows
    characters = text.characters if text.characters is not None else size
    if not characters:
        return None
    return math.ceil(characters / CHARACTERS_PER_TOKEN / (text.stride or text.sequence_length))
