"""The stage that copies stored masks into the content store, as the artifact that pruning makes."""

import tempfile
from pathlib import Path

from torch import Tensor

from pipeline.architecture.rows import row_for
from pipeline.artifacts.artifact import FileRef
from pipeline.artifacts.sparsity import LinearSparsity
from pipeline.checkpoint.keeps import HeldTensor, keep_ref, put_block_keep, turned
from pipeline.checkpoint.reader import CheckpointReader
from pipeline.dag.stages.sources import ImportKeep
from pipeline.errors import InvalidRequest, InvalidSpec
from pipeline.masks.apply import FittedMasks, fit
from pipeline.masks.file import MaskFile
from pipeline.sources import open_source
from pipeline.sources.pins import Pin
from pipeline.spec.patterns import NM, Pattern
from pipeline.spec.sparsity_plan import SparsityPlan
from pipeline.tensor.packing import pack_keep
from pipeline.tensor.zeros import first_bad_group
from workers.context import Made, Progress, StageContext, Steps


def run(stage: ImportKeep, context: StageContext) -> Steps:
    """Import the masks. Their file lies on the local disk; memory holds the packed masks of a block, and one
    mask with its weight.

    Raises InvalidSpec when the masks are not those of the checkpoint's prunable weights, or do not keep what
    the plan, if there is one, keeps.
    """
    field, pin = context.source(stage.files)
    try:
        yield from _imported(pin, context)
    except InvalidRequest as error:
        error.param = error.param or field
        raise


def _imported(pin: Pin, context: StageContext) -> Steps:
    content = context.content
    reader = CheckpointReader(content, context.checkpoint())
    plan = context.find("plan", SparsityPlan)
    patterns = () if plan is None else plan.blocks
    row = row_for(str(reader.config["model_type"]))
    shapes = {name: entry.shape for name, entry in reader.index.tensors.items()}
    files: list[FileRef] = []
    linears: list[LinearSparsity] = []
    with tempfile.TemporaryDirectory(prefix="secateur-masks-") as directory:
        masks = fit(_fetched(pin, context, Path(directory)), row, shapes, of="the model")
        blocks = _by_block(masks)
        for block, held in blocks:
            packed: dict[str, Tensor] = {}
            for one in held:
                keep_OI = masks.matrix(one.name)
                if patterns:
                    _check(one, keep_OI, patterns[block], named=masks.file.named)
                packed[one.name] = pack_keep(keep_OI)
                linears.append(_sparsity(one, reader.tensor(one.name), turned(keep_OI, row, one.linear)))
            files.append(put_block_keep(content, block, packed))
            yield Progress(block + 1, len(blocks))
    yield Made({"keep": keep_ref(content, files, linears)})


def _fetched(pin: Pin, context: StageContext, directory: Path) -> MaskFile:
    source = open_source(pin.source, context.settings.access())
    path = directory / "masks.safetensors"
    with path.open("wb") as written:
        for chunk in source.read(pin.files[0]):
            written.write(chunk)
    return MaskFile(path, named=pin.source)


def _by_block(masks: FittedMasks) -> list[tuple[int, list[HeldTensor]]]:
    blocks: dict[int, list[HeldTensor]] = {}
    for held in masks.tensors.values():
        blocks.setdefault(held.block, []).append(held)
    return list(blocks.items())


def _check(held: HeldTensor, keep_OI: Tensor, pattern: Pattern, *, named: str) -> None:
    """Raise InvalidSpec unless every group keeps as many as the plan's pattern does."""
    if not isinstance(pattern, NM):
        return
    pattern.check_in_features(keep_OI.shape[1], linear=held.name)
    bad = first_bad_group(keep_OI, keep=pattern.keep, group=pattern.group)
    if bad is None:
        return
    row, group = bad
    first = group * pattern.group
    kept = int(keep_OI[row, first : first + pattern.group].sum())
    raise InvalidSpec(
        f"{named} keeps {kept} of inputs {first} to {first + pattern.group - 1} in row {row} of {held.name}, "
        f"and block {held.block} is planned as NM({pattern.keep},{pattern.group}); use masks of that "
        f"pattern, or set spec.prune.pattern to theirs"
    )


def _sparsity(held: HeldTensor, weight: Tensor, keep: Tensor) -> LinearSparsity:
    """Count the zeros as if the mask were applied. `weight` and `keep` have the checkpoint's orientation."""
    return LinearSparsity(
        block=held.block,
        linear=held.linear,
        pruned=keep.numel() - int(keep.sum()),
        zeros=keep.numel() - int(((weight != 0) & keep).sum()),
        weights=keep.numel(),
    )
