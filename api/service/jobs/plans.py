"""POST /plans: the nodes that a job would have, which of them are stored already, what they would cost, and
warnings."""

import os
from collections.abc import Iterator

from api.service.context import Services
from api.service.jobs.views import InputView, PlanNodeView, PlanView
from pipeline.architecture.rows import row_for
from pipeline.artifacts.refs import ArtifactRef
from pipeline.dag.nodes import node_key
from pipeline.dag.plan import plan_of
from pipeline.job.ledger import find_result
from pipeline.planning.fits import checked_estimates
from pipeline.planning.micro_batch import settled
from pipeline.report.quantity import human_bytes
from pipeline.request.parts import PARTS
from pipeline.request.prune_spec import JobRequest, PruneSpec
from pipeline.resolve.mask_memory import mask_memory
from pipeline.resolve.training_memory import TrainingMemory, training_memory
from pipeline.serving.expected import Expectation, expected
from pipeline.sources.pins import MODEL, Pins
from pipeline.spec.mask_training import MaskTraining
from pipeline.spec.patterns import NM, Pattern
from pipeline.spec.recovery import Recovery
from pipeline.spec.self_calibration import SelfCalibration
from pipeline.spec.source_fields import source_fields
from pipeline.spec.training_recipe import TrainingRecipe
from pipeline.structure.sizes import sizes_of
from pipeline.structure.target import slow_sizes


def preview(services: Services, request: JobRequest) -> PlanView:
    """Plan a request without submitting it. Raises InvalidRequest as POST /jobs would."""
    pins = services.resolve(request.spec)
    request = settled(request, pins).request
    expected_costs = checked_estimates(request, pins)
    inputs = tuple(_inputs(request, pins))
    return PlanView(
        nodes=tuple(_nodes(services, request, pins)),
        inputs=inputs,
        bytes=sum(given.size for given in inputs),
        resources=request.resources,
        estimates=expected_costs,
        serving=tuple(_serving(request, pins)),
        warnings=tuple(_warnings(services, request, pins)),
    )


def _nodes(services: Services, request: JobRequest, pins: Pins) -> Iterator[PlanNodeView]:
    made: dict[str, dict[str, ArtifactRef]] = {}
    for node in plan_of(request, pins).nodes:
        key = node_key(node, made)
        stored = find_result(services.content, key) if key is not None and node.stage.reusable else None
        if stored is not None:
            made[node.id] = stored.artifacts
        yield PlanNodeView(
            node=node.id,
            stage=node.stage.kind,
            needs=tuple(sorted(node.needs)),
            key=key,
            cached=stored is not None,
        )


def _inputs(request: JobRequest, pins: Pins) -> Iterator[InputView]:
    for field in source_fields(request.spec, "spec"):
        pin = pins.of(field.path)
        yield InputView(param=field.path, source=pin.source, size=pin.size, files=len(pin.files))


def _serving(request: JobRequest, pins: Pins) -> Iterator[Expectation]:
    spec = request.spec
    if not spec.target:
        return
    row = row_for(pins.facts.model_type)
    old = sizes_of(row, pins.facts.config)
    new = old if spec.structure is None else spec.structure.target(row, pins.facts.config)
    pattern = None if spec.prune is None else spec.prune.pattern
    yield from expected(spec.target, row, pins.facts.config, old=old, new=new, pattern=pattern)


def _warnings(services: Services, request: JobRequest, pins: Pins) -> Iterator[str]:
    spec, resources = request.spec, request.resources
    yield from pins.facts.notes
    if not spec.evaluation.perplexity:
        yield "spec.evaluation.perplexity is empty: the report will have no perplexities to compare"
    size = pins.of(MODEL).size
    share = resources.of("evaluation")
    if size > share.memory_bytes:
        for what in _loads_whole(spec):
            yield (
                f"{share.field('memory_per_worker')} is {share.memory_per_worker}, and {what} loads the "
                f"whole model, whose files have {human_bytes(size)}"
            )
    if spec.calibration is not None and not any(one.needs_calibration for one in (spec, *spec.members)):
        why = (
            "nothing is pruned"
            if spec.prune is None
            else f"method {spec.prune.method.kind} with allocation {spec.prune.allocation.kind} looks at "
            f"weights alone"
        )
        yield f"spec.calibration is not used: {why}"
    if spec.structure is not None:
        row = row_for(pins.facts.model_type)
        new = spec.structure.target(row, pins.facts.config)
        for sentence in slow_sizes(sizes_of(row, pins.facts.config), new):
            yield f"spec.structure: {sentence}"
    if spec.prune is not None and spec.learned_method is not None:
        yield from _mask_warnings(request, spec.learned_method.training, spec.prune.pattern, pins)
    if spec.recovery is not None:
        yield from _recovery_warnings(request, spec.recovery, pins)
    elif not spec.learns_masks and "recovery" in resources.model_fields_set:
        yield "resources.recovery is not used: there is no spec.recovery, and no masks are learned"
    settings = services.settings
    cpus = settings.ray_num_cpus or os.cpu_count() or 1
    if settings.embedded:
        yield from _too_many(request, cpus)


def _too_many(request: JobRequest, cpus: int) -> Iterator[str]:
    """Warn of parts whose workers do not fit into a Ray of `cpus` CPUs, which never grows. Of those that hold
    a whole model, one at a time is enough."""
    for part in PARTS:
        share = request.resources.of(part)
        trains = request.spec.recovery is not None or request.spec.learns_masks
        if part == "recovery" and not trains:
            continue
        workers = 1 if part == "evaluation" else share.workers
        if workers * share.cpus_per_worker > cpus:
            yield (
                f"resources ask for {workers} x {share.cpus_per_worker} CPUs for {part} and this machine has "
                f"{cpus}: the job will be refused; lower {share.field('workers')} or "
                f"{share.field('cpus_per_worker')}"
            )


def _loads_whole(spec: PruneSpec) -> Iterator[str]:
    """Yield the parts of a spec that need the whole model in the memory of one worker."""
    if spec.evaluation.tasks is not None:
        yield "each task of spec.evaluation.tasks"
    if spec.evaluation.behaviour is not None:
        yield "spec.evaluation.behaviour"
    if isinstance(spec.calibration, SelfCalibration):
        yield "spec.calibration.source self"


def _mask_warnings(
    request: JobRequest, training: MaskTraining, pattern: Pattern, pins: Pins
) -> Iterator[str]:
    yield from _without_validation(training, "spec.prune.method.training")
    if isinstance(pattern, NM):
        needed = mask_memory(training, pattern, request.resources, facts=pins.facts)
        easier = (
            "resources.recovery.zero_stage 3, resources.recovery.gradient_checkpointing, or precision "
            "bfloat16 or scope block in spec.prune.method.training"
            if training.scope == "model"
            else "fewer tokens, or precision bfloat16 in spec.prune.method.training"
        )
        yield from _too_little(request, pins, needed, what="mask learning", easier=easier)


def _recovery_warnings(request: JobRequest, recovery: Recovery, pins: Pins) -> Iterator[str]:
    yield from _without_validation(recovery, "spec.recovery")
    needed = training_memory(recovery, request.resources, pins=pins, sparse=request.spec.makes_zeros)
    easier = "resources.recovery.zero_stage 3, precision bfloat16, or trains kind lora"
    yield from _too_little(request, pins, needed, what="recovery training", easier=easier)


def _without_validation(recipe: TrainingRecipe, field: str) -> Iterator[str]:
    if recipe.text.validation_sequences == 0:
        yield f"{field}.text.validation_sequences is 0: the report will have no curve of held-out text"


def _too_little(
    request: JobRequest, pins: Pins, needed: TrainingMemory, *, what: str, easier: str
) -> Iterator[str]:
    share = request.resources.of("recovery")
    if share.gpus_per_worker or pins.facts.parameters is None:
        return  # the memory of a GPU is not known here
    if needed.total > share.memory_bytes:
        parts = ", ".join(f"{name} {human_bytes(size)}" for name, size in needed.parts().items())
        counted = "" if needed.activations else ", activations not counted"
        yield (
            f"{share.field('memory_per_worker')} is {share.memory_per_worker}, and {what} needs about "
            f"{human_bytes(needed.total)} on each of {share.workers} workers ({parts})"
            f"{counted}: raise it, or use more workers with {easier}"
        )
