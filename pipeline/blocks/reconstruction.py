"""Fits one pruned block to the output of the dense block; every worker takes the same steps."""

import math
from collections.abc import Sequence

from pipeline.artifacts.curve import BlockFit
from pipeline.blocks.crew import Crew
from pipeline.blocks.worker import SweepWorker
from pipeline.errors import NumericalError
from pipeline.spec.reconstruction import BlockReconstruction, steps_of

STEPS_AHEAD = 16  # are asked for before the loop waits, so that no worker waits for the driver


def fit_block(crew: Crew, block: int, spec: BlockReconstruction, *, samples: int) -> BlockFit:
    """Fits the loaded block, and keeps the fitted weights if they bring it closer to the dense one."""
    before = _mean(crew.all(SweepWorker.begin_fit))
    for step in range(steps_of(spec, samples=samples)):
        crew.sum_up(SweepWorker.fit_gradient, SweepWorker.fit_step, range(crew.size), step)
        if step % STEPS_AHEAD == STEPS_AHEAD - 1:
            crew.wait([])
    after = _mean(crew.all(SweepWorker.fit_distances))
    crew.all(SweepWorker.end_fit, take=after < before)
    return BlockFit(block=block, before=before, after=min(before, after))


def _mean(shares: Sequence[Sequence[float]]) -> float:
    """The mean distance over all samples."""
    distances = [distance for share in shares for distance in share]
    mean = math.fsum(distances) / len(distances)
    if not math.isfinite(mean):
        raise NumericalError(
            f"the distance of a pruned block to the dense one is {mean}; check the checkpoint, or set "
            f"compute_dtype to float32"
        )
    return mean
