"""Masks that are learned block by block, towards the dense block's output, in the memory of one block.

See block_fitting.py for the walk over the blocks. Finished blocks are stored, and a later start continues
after them.

Shape legend: O out_features, I in_features, G groups, C candidates.
"""

import time

from torch import Tensor, nn

from pipeline.artifacts.artifact import FileRef
from pipeline.artifacts.curve import BlockMasks, Curve, MaskRecord
from pipeline.artifacts.refs import ArtifactRef, CurveRef, KeepRef
from pipeline.checkpoint.assemble import StoredTensors
from pipeline.checkpoint.keeps import load_keep, put_block_keep, put_keep, turned
from pipeline.checkpoint.writer import put_tensors
from pipeline.dag.stages.training import LearnMasks
from pipeline.job.ledger import progress_key
from pipeline.tensor.dtypes import TORCH_DTYPES
from pipeline.tensor.packing import pack_keep
from pipeline.tensor.soft_masks import Draw, chosen, chosen_codes, key_of, likelihood, masked_weight
from workers.context import Note, Progress
from workers.memory import peak_memory_bytes, reset_peak_memory
from workers.training import ranks
from workers.training.block_fitting import Setting, Walk, fit_blocks
from workers.training.blockwise import FittedBlock, fitted_checkpoint, stored_blocks
from workers.training.certified import certified, kept_as_they_were
from workers.training.data import TrainingData
from workers.training.first_masks import FirstMasks
from workers.training.mask_student import of_block
from workers.training.masked import stored_weight
from workers.training.stored import Stored
from workers.training.work import TrainingResult, TrainingRuntime, Work


class LearnedBlock(FittedBlock):
    """The record of a finished block with its learned masks."""

    keep: FileRef
    masks: BlockMasks


def learn_blocks(work: Work, runtime: TrainingRuntime) -> TrainingResult:
    """Learn the masks of every block that is not stored yet."""
    reset_peak_memory()
    started_at = time.monotonic()
    assert isinstance(work.stage, LearnMasks)
    training, content = work.stage.training, work.settings.content()
    data = TrainingData(content, work.tokens, seed=training.text.seed)
    first = FirstMasks(work)
    done = ranks.from_first(lambda: stored_blocks(work, LearnedBlock))
    if done and ranks.rank() == 0:
        runtime.tell(Note(f"the masks of {len(done)} blocks are learned already"))
    device = work.device
    setting = Setting(
        training, training.epochs, work.resources.micro_batch, TORCH_DTYPES[training.precision], device
    )
    fitted = fit_blocks(
        setting,
        content,
        dense=work.checkpoint,
        own=work.checkpoint,
        sequence=lambda index: data.sequences([index])[0],
        trainee=lambda walk, block: _Masks(walk, block, first, work),
        done=[block.weights for block in done],
    )
    blocks = len(first.patterns)
    for fit, tensors, trained in fitted:
        # A block that did not come nearer to its target keeps its first masks, like its tensors.
        learned = LearnedBlock(
            fit=fit,
            weights=StoredTensors.of(put_tensors(content, "part.safetensors", tensors)),
            keep=put_block_keep(content, fit.block, trained.packed(taken=fit.after < fit.before)),
            masks=trained.record(),
        )
        done = [*done, learned]
        if ranks.rank() == 0:
            content.put_model(progress_key(work.key, f"fitted-{fit.block:05d}"), learned)
            note = f"distance {fit.before:.4g} → {fit.after:.4g}"
            runtime.tell(Progress(float(len(done)), float(blocks), note))
    peak = int(ranks.largest([float(peak_memory_bytes())], device)[0])
    artifacts = _artifacts(work, done)
    return TrainingResult(
        artifacts=artifacts,
        tokens=training.sequences * data.index.sequence_length,
        seconds=time.monotonic() - started_at,
        peak_memory_bytes=peak,
    )


class _Masks:
    """The masks of a block's linears. See BlockTrainee."""

    def __init__(self, walk: Walk, block: int, first: FirstMasks, work: Work) -> None:
        assert isinstance(work.stage, LearnMasks)
        self._training = work.stage.training
        self._row = work.row
        self._block = block
        self._stored = walk.stored(block)
        self._disk = {name: disk for name, disk in walk.names(block).items() if disk in first.tensors}
        self._candidates_CM = first.candidates(block).to(work.device)
        self._first = {name: first.logits(disk, block) for name, disk in self._disk.items()}
        self._weights = {name: tensor.to(work.device) for name, tensor in self._stored.items()}
        self.parameters = {
            name: nn.Parameter(one.to(work.device, copy=True)) for name, one in self._first.items()
        }

    def weights(self, step: int) -> dict[str, Tensor]:
        """The weights under the draws of a step, the same on every worker."""
        training, steps = self._training, self._training.epochs * self._training.total_steps
        scale, temperature = (one.at(step, steps=steps) for one in (training.scale, training.temperature))
        drawn = {}
        for name, logits_CG in self.parameters.items():
            key = key_of(training.text.seed, self._block, step, name)
            weight_OI = turned(self._weights[name], self._row).contiguous()
            masked_OI, _ = masked_weight(
                weight_OI, logits_CG, self._candidates_CM, Draw(scale, temperature, key)
            )
            drawn[name] = turned(masked_OI, self._row)
        return drawn

    def clear(self, name: str, gradient: Tensor) -> None:
        """Clear nothing: a logit may take any value."""

    def tensors(self) -> dict[str, Tensor]:
        """The dense weights under the likeliest masks."""
        masked = {
            name: stored_weight(self._stored[name], self._keep(name, one.detach()))
            for name, one in self.parameters.items()
        }
        return {**self._stored, **masked}

    def packed(self, *, taken: bool) -> dict[str, Tensor]:
        """The packed keep tensors [O, I] by checkpoint name: the learned ones if `taken`, else the first."""
        logits = self.parameters if taken else self._first
        return {
            self._disk[name]: pack_keep(turned(self._keep(name, one.detach()), self._row).contiguous())
            for name, one in logits.items()
        }

    def record(self) -> BlockMasks:
        """The entropy, certainty and change of the block's masks at the end."""
        scale = self._training.scale.end
        return of_block(
            [
                (
                    likelihood(one.detach(), scale),
                    int((chosen_codes(one.detach()).cpu() != chosen_codes(self._first[name])).sum()),
                )
                for name, one in self.parameters.items()
            ]
        )

    def _keep(self, name: str, logits_CG: Tensor) -> Tensor:
        """The likeliest keep tensor, in the orientation of the stored weight."""
        shape = turned(self._stored[name], self._row).shape
        keep_OI = chosen(logits_CG, self._candidates_CM, (shape[0], shape[1]))
        return turned(keep_OI.cpu(), self._row)


def _artifacts(work: Work, done: list[LearnedBlock]) -> dict[str, ArtifactRef]:
    """Assemble, certify and store what was learned. Rank 0 calls it."""
    assert isinstance(work.stage, LearnMasks)
    training, content = work.stage.training, work.settings.content()
    checkpoint = ranks.from_first(lambda: fitted_checkpoint(work, [block.weights for block in done]))
    packed = KeepRef(files=tuple(block.keep for block in done))
    keep = ranks.from_first(lambda: put_keep(content, checkpoint, load_keep(content, checkpoint, packed)))
    steps = training.total_steps
    record = MaskRecord(
        step=steps,
        temperature=training.temperature.end,
        scale=training.scale.end,
        blocks=tuple(block.masks for block in done),
    )
    curve = Curve(
        blocks=tuple(block.fit for block in done), masks=(record,), total_steps=steps, result_step=steps
    )
    stored = Stored(step=steps, checkpoint=checkpoint, keep=keep)
    same = kept_as_they_were(content, work.checkpoint, stored)
    return {
        "checkpoint": checkpoint,
        "curve": ranks.from_first(lambda: CurveRef.made(content, curve)),
        **certified(work, stored, checks=(same,)),
    }
