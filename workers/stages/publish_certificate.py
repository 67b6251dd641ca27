"""The certificate of a published model: the one of training, or of the masks, and a check of the files."""

from collections.abc import Sequence

from pipeline.artifacts.certificate import Certificate, Check
from pipeline.artifacts.refs import KeepRef
from pipeline.artifacts.sparsity import SparsityTable
from pipeline.checkpoint.keeps import KeepReader
from pipeline.dag.stages.results import Publish
from pipeline.errors import ZerosLost
from pipeline.masks.certify import certify, certify_tensors
from pipeline.masks.published import published_tensors
from pipeline.spec.patterns import Pattern
from pipeline.spec.sparsity_plan import SparsityPlan
from workers.context import StageContext


def certified_files(stage: Publish, context: StageContext, prefix: str) -> Certificate:
    """Read the files below `prefix` back and check them against their keep tensors.

    Raises ZerosLost that names tensor and position.
    """
    keep = context.inputs["keep"]
    assert isinstance(keep, KeepRef)
    patterns = planned_patterns(stage, context)
    earlier = _earlier(context, keep, patterns)
    checkpoint = context.checkpoint()
    keeps = KeepReader(context.content, checkpoint, keep)
    digests = {file.path: file.blob.digest for file in checkpoint.files if file.path.endswith(".safetensors")}
    weights = published_tensors(context.content.store, prefix, digests, held=keeps.tensors)
    tensors, check = certify_tensors(weights, keeps, at="published", patterns=patterns)
    for before, after in zip(earlier.tensors, tensors, strict=True):
        if before != after:
            raise ZerosLost(f"{after.tensor} as published is under {after}, as it was made under {before}")
    return Certificate(tensors=tensors, checks=(*earlier.checks, check))


def planned_patterns(stage: Publish, context: StageContext) -> Sequence[Pattern] | None:
    """The pattern of each block; None unless the zeros are those that pruning chose."""
    recovery = stage.spec.recovery
    if "plan" not in context.inputs or (recovery is not None and recovery.keep.kind != "held"):
        return None
    return context.load("plan", SparsityPlan).blocks


def _earlier(context: StageContext, keep: KeepRef, patterns: Sequence[Pattern] | None) -> Certificate:
    """The certificate of training; without training, checks of the masks and of the stored result."""
    if "certificate" in context.inputs:
        return context.load("certificate", Certificate)
    table = context.load("keep", SparsityTable)
    pruned = sum(linear.pruned for linear in table.linears)
    masks = Check(at="mask", tensors=len(table.linears), held=pruned, zeros=pruned)
    tensors, stored = certify(context.content, context.checkpoint(), keep, at="reload", patterns=patterns)
    if (stored.tensors, stored.held) != (masks.tensors, masks.held):
        raise ZerosLost(
            f"{masks.held} weights of {masks.tensors} tensors were pruned, and the keep tensors hold "
            f"{stored.held} of {stored.tensors}"
        )
    return Certificate(tensors=tensors, checks=(masks, stored))
