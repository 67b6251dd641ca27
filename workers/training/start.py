"""The choice among the kinds of training."""

from pipeline.dag.stages.training import LearnMasks
from workers.training.blockwise import train_blocks
from workers.training.loop import train
from workers.training.mask_blocks import learn_blocks
from workers.training.work import TrainingResult, TrainingRuntime, Work


def start(work: Work, runtime: TrainingRuntime) -> TrainingResult:
    """Run the kind of training that the stage asks for, to the end, from where an earlier start stopped."""
    if isinstance(work.stage, LearnMasks):
        return learn_blocks(work, runtime) if work.stage.training.scope == "block" else train(work, runtime)
    if work.stage.recovery.trains.kind == "reconstruction":
        return train_blocks(work, runtime)
    return train(work, runtime)
