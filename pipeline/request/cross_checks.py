"""Checks across the fields of a request, before any source is read.

Each check raises an error for the one field to change. The validators of prune_spec.py call them.
"""

from collections.abc import Sequence

from pipeline.allocations import Allocation
from pipeline.allocations.contest import ContestAllocation
from pipeline.artifacts.mask_overlap import PRIOR
from pipeline.methods.learned import LearnedMethod
from pipeline.request.resources import Resources
from pipeline.spec.evaluation import Evaluation
from pipeline.spec.field_error import refusal
from pipeline.spec.patterns import Pattern, Unstructured
from pipeline.spec.recovery import Gradual, Recovery
from pipeline.spec.stored_masks import NamedMasks
from pipeline.spec.training_recipe import Distillation, TrainingRecipe


def check_recovery(recovery: Recovery, pattern: Pattern | None, *, cut: bool = False) -> None:
    """Check recovery against the pattern of pruning, which is None where no weights become zero. `cut`: the
    model becomes smaller. Field paths are relative to the spec."""
    _check_keep(recovery, pattern)
    if pattern is not None:
        return
    if recovery.trains.kind == "reconstruction":
        raise refusal(
            "reconstruction brings pruned blocks back to what the dense ones give, and nothing is pruned; "
            "add prune, or use trains kind full, lora or norms_and_biases",
            "recovery",
            "trains",
            "kind",
            got="reconstruction",
        )
    objective = recovery.objective
    own_teacher = isinstance(objective, Distillation) and objective.teacher is None
    if own_teacher and recovery.keep.kind == "held" and not cut:
        raise refusal(
            "nothing is pruned, so the model would be its own teacher; name another one, add prune, or use "
            "objective kind language_modelling",
            "recovery",
            "objective",
            "teacher",
        )


def check_whole_texts(evaluation: Evaluation) -> None:
    """Refuse a limit of windows when two tokenizers cut the texts. Field paths are relative to the spec."""
    for i, text in enumerate(evaluation.perplexity):
        if text.windows is not None:
            raise refusal(
                f"got {text.windows}, and the tokenizer of structure.vocabulary needs more windows for the "
                f"same text; leave it out, or limit the characters",
                "evaluation",
                "perplexity",
                i,
                "windows",
                got=text.windows,
            )


def check_compared(masks: Sequence[NamedMasks]) -> None:
    """Check that all masks to compare with have different names. Field paths are relative to prune."""
    taken = {PRIOR}
    for i, one in enumerate(masks):
        if one.name in taken:
            raise refusal(
                f"got {one.name!r}, and other masks have that name ({PRIOR!r} are those that learning begins "
                f"with); choose another",
                "compare_with",
                i,
                "name",
                got=one.name,
            )
        taken.add(one.name)


def check_learning(method: LearnedMethod, allocation: Allocation, *, reconstructs: bool) -> None:
    """Check that the rest of prune suits learned masks. Field paths are relative to prune."""
    if isinstance(allocation, ContestAllocation):
        raise refusal(
            f"method {method.kind} is trained, and a {allocation.kind} would train it once for every "
            f"candidate; use one allocation",
            "allocation",
            "kind",
            got=allocation.kind,
        )
    if reconstructs:
        raise refusal(
            f"method {method.kind} learns masks of the weights as they are, and reconstruction changes "
            f"these; leave it out, and add recovery to train the weights afterwards",
            "reconstruction",
        )
    objective = method.training.objective
    if isinstance(objective, Distillation) and objective.teacher is not None:
        raise refusal(
            "masks learn from their own model without masks; leave the teacher out",
            "method",
            "training",
            "objective",
            "teacher",
        )


def check_training(recovery: Recovery, resources: Resources) -> None:
    """Check recovery against its split over workers. Field paths are relative to the request."""
    if resources.recovery.teacher != "whole" and not recovery.needs_teacher:
        raise refusal(
            f"got {resources.recovery.teacher}, and there is no teacher: that takes spec.recovery.objective "
            f"kind distillation; leave it out",
            "resources",
            "recovery",
            "teacher",
            got=resources.recovery.teacher,
        )
    check_split(recovery, resources, "spec", "recovery")


def check_split(recipe: TrainingRecipe, resources: Resources, *field: str) -> None:
    """Check the training at `field` of the request against its split over workers."""
    share = resources.of("recovery")
    gpus = share.gpus_per_worker
    if gpus not in (0, 1):
        raise refusal(
            f"got {gpus:g}: each worker of a training drives one whole GPU, or none; use 1 (and more "
            f"workers) or 0, here or in resources.recovery for training alone",
            *share.field("gpus_per_worker").split("."),
            got=gpus,
        )
    if recipe.precision == "float16" and not gpus:
        raise refusal(
            "float16 is trained on GPUs only; use bfloat16 or float32, or set resources.gpus_per_worker to 1",
            *field,
            "precision",
            got="float16",
        )
    _check_batch(recipe.global_batch_size, resources, *field)


def _check_keep(recovery: Recovery, pattern: Pattern | None) -> None:
    keep = recovery.keep
    if keep.kind == "held":
        return
    if isinstance(pattern, Unstructured) or (pattern is None and isinstance(keep, Gradual)):
        _check_moves(recovery, pattern)
        return
    got = "nothing is pruned" if pattern is None else f"spec.prune.pattern is {pattern.kind}"
    raise refusal(
        f"{keep.kind} moves single weights, which needs spec.prune with an unstructured pattern"
        f"{' or no prune' if isinstance(keep, Gradual) else ''}; {got}. Use keep kind held",
        "recovery",
        "keep",
        "kind",
        got=keep.kind,
    )


def _check_moves(recovery: Recovery, pattern: Pattern | None) -> None:
    keep = recovery.keep
    if isinstance(keep, Gradual) and pattern is not None and keep.sparsity <= pattern.target:
        raise refusal(
            f"got {keep.sparsity:g}, and prune makes {pattern.target:g} already; ask for more here, for less "
            f"in spec.prune.pattern.sparsity, or use keep kind held",
            "recovery",
            "keep",
            "sparsity",
            got=keep.sparsity,
        )


def _check_batch(size: int, resources: Resources, *field: str) -> None:
    """Check that the global batch size is the product of the parts that each worker takes."""
    asked, workers = resources.recovery, resources.training_workers
    micro = 1 if asked.micro_batch_size == "auto" else asked.micro_batch_size  # what divides by 1 has a rule
    at_once = micro * workers
    steps = asked.gradient_accumulation_steps
    if size == at_once * steps if steps is not None else size % at_once == 0:
        return
    product = f"micro_batch_size {asked.micro_batch_size} · {workers} workers"
    if steps is not None:
        possible = f"is not {product} · gradient_accumulation_steps {steps} = {at_once * steps}"
        nearest = [at_once * steps]
        beside = "resources.recovery.gradient_accumulation_steps" + (
            f" to {size // at_once}" if size % at_once == 0 else ""
        )
    else:
        possible = f"is no multiple of {product} = {at_once}"
        nearest = [count * at_once for count in (size // at_once, size // at_once + 1) if count]
        beside = "resources.recovery.micro_batch_size or workers"
    raise refusal(
        f"{size} {possible}; use {' or '.join(map(str, nearest))}, or change {beside}",
        *field,
        "global_batch_size",
        got=size,
    )


def check_contest_text(allocation: Allocation) -> None:
    """Raise the refusal of an allocation that scores on documents beside those of the calibration, where the
    model writes its calibration itself."""
    if isinstance(allocation, ContestAllocation):
        raise refusal(
            f"allocation {allocation.kind} scores on documents beside those of the calibration, and source "
            f"self has none; name a text, or another allocation",
            "calibration",
            "source",
            got="self",
        )
