"""Which kind of training a recipe asks for."""

from pipeline.stages import Recover
from workers.training.blockwise import train_blocks
from workers.training.loop import train
from workers.training.work import Surroundings, TrainingResult, Work


def start(work: Work, around: Surroundings) -> TrainingResult:
    """Train to the end, from wherever an earlier start left off."""
    if isinstance(work.stage, Recover) and work.stage.recovery.trains.kind == "reconstruction":
        return train_blocks(work, around)
    return train(work, around)
