"""The masks that learning starts from: those of a prior, or random ones.

Shape legend: O out_features, I in_features, G groups, C candidates.
"""

import math

from torch import Tensor

from pipeline.checkpoint.keeps import KeepReader
from pipeline.checkpoint.reader import CheckpointReader
from pipeline.checkpoint.skeleton import disk_names, skeleton
from pipeline.dag.stages.training import LearnMasks
from pipeline.errors import InvalidSpec
from pipeline.spec.patterns import NM
from pipeline.tensor import soft_masks
from pipeline.tensor.dtypes import TORCH_DTYPES
from workers.training.masked import prunable
from workers.training.work import Work


class FirstMasks:
    """Gives the first logits of every prunable weight by its checkpoint name. `patterns`: each block's."""

    def __init__(self, work: Work) -> None:
        assert isinstance(work.stage, LearnMasks)
        self._stage = work.stage
        self._row = work.row
        self._device = work.device
        content = work.settings.content()
        self._reader = CheckpointReader(content, work.checkpoint)
        self._prior = None if work.prior is None else KeepReader(content, work.checkpoint, work.prior)
        self.patterns = [one for one in work.patterns or () if isinstance(one, NM)]
        if not self.patterns or len(self.patterns) != len(work.patterns or ()):
            raise InvalidSpec(
                "masks are learned for N:M patterns; use pattern kind nm", "spec.prune.pattern.kind"
            )
        model = skeleton(self._reader, TORCH_DTYPES[work.stage.training.precision])
        names = disk_names(model, self._reader)
        found = prunable(names, self._row.blocks, self._row.linear_names)
        self.tensors = {names[name]: block for name, block in found}

    def candidates(self, block: int) -> Tensor:
        """The candidate masks of a block's groups, bool [C, M]."""
        return soft_masks.candidates(self.patterns[block].keep, self.patterns[block].group)

    def shape(self, name: str) -> tuple[int, int]:
        """The shape [O, I] of a weight, however it is stored."""
        shape = self._reader.index.tensors[name].shape
        return (shape[1], shape[0]) if self._row.transposed else (shape[0], shape[1])

    def logits(self, name: str, block: int) -> Tensor:
        """The first logits of a weight, float32 [C, G]. Raises InvalidSpec when groups do not divide the
        weight's inputs."""
        pattern, masks_CM, shape = self.patterns[block], self.candidates(block), self.shape(name)
        pattern.check_in_features(shape[1], linear=name)
        if self._prior is not None:
            keep_OI = self._prior.matrix(name).to(self._device)
            return soft_masks.prior_logits(keep_OI, masks_CM, strength=self._stage.prior_strength)
        seed = soft_masks.key_of(self._stage.training.text.seed, "first", name) % 2**63
        return soft_masks.random_logits(math.prod(shape) // pattern.group, masks_CM, seed=seed)
