"""The loss of a model on sequences, with one of its blocks in memory at a time."""

from collections.abc import Generator, Sequence

from pipeline.blocks.crew import Crew
from pipeline.blocks.steps import Progress
from pipeline.blocks.worker import SweepWorker


def sequence_losses(crew: Crew, scored: Sequence[int]) -> Generator[Progress, None, list[tuple[float, int]]]:
    """Walks the model. Returns for each sequence the cross-entropy summed over its last `scored` predictions,
    in nats, and the number of these predictions."""
    units = crew.blocks + 1  # the head counts as one more
    for block in range(crew.blocks):
        crew.label = f"block {block + 1}/{crew.blocks}"
        crew.tell(SweepWorker.load, block, then=(block + 1, None) if block + 1 < crew.blocks else None)
        crew.all(SweepWorker.advance)
        yield Progress(block + 1, units)
    crew.label = "head"
    shares = crew.shared_out(scored)
    losses = crew.wait([crew.ask(i, SweepWorker.losses, share) for i, share in enumerate(shares)])
    yield Progress(units, units)
    return [outcome for share in losses for outcome in share]
