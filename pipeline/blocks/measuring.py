"""A dense sweep: measures the statistics of every linear's input, and the numbers that allocations need."""

from collections.abc import Generator, Sequence

from pipeline.allocations.measures import Measure
from pipeline.artifacts.artifact import FileRef
from pipeline.artifacts.refs import StatisticsRef
from pipeline.blocks.crew import Crew
from pipeline.blocks.sharing import shared_by_cost
from pipeline.blocks.steps import Note, Progress
from pipeline.blocks.trail import Trail
from pipeline.blocks.worker import SweepWorker
from pipeline.canonical import Frozen
from pipeline.storage.progress import StageProgress
from pipeline.tensor.needs import Needs


class StoredStatistics(Frozen):
    """A finished block of a dense sweep."""

    files: tuple[FileRef, ...]


def measure_statistics(
    crew: Crew,
    needs: Needs,
    *,
    samples: int,
    progress: StageProgress | None = None,
    reproducible: bool = True,
) -> Generator[Progress | Note, None, StatisticsRef]:
    """Runs each block once, which gives its statistics and the inputs of the next block. The last block ends
    before its output is computed, unless similarities are requested. With `progress`, finished blocks are
    recorded, and those of an earlier attempt are found. `reproducible`: see Crew."""

    def whole(block: StoredStatistics) -> bool:
        return progress is not None and all(progress.content.has(file.blob) for file in block.files)

    crew.reproducible = reproducible
    storers: list[int] = []  # of the last measured block: who stores the Hessian of each group
    with Trail(crew, progress, StoredStatistics, whole=whole, samples=samples) as trail:
        yield from trail.resume()
        for block in range(crew.blocks):
            crew.label = f"block {block + 1}/{crew.blocks}"
            if block >= trail.reached:
                crew.tell(SweepWorker.load, block, then=trail.ahead(block))
            if trail.reached <= block < trail.found:
                crew.all(SweepWorker.advance)
            elif block >= trail.found:
                last = block == crew.blocks - 1 and "similarity" not in needs
                begun = _measured(crew, needs, last=last)
                if block > trail.found:
                    trail.add(_stored(crew, block - 1, storers))
                storers = begun
                if trail.must_leave(block + 1):
                    trail.add(_stored(crew, block, storers))
                    trail.leave(block + 1)
                trail.enter(block + 1)
            yield from trail.told()
        if crew.blocks > trail.found:
            trail.add(_stored(crew, crew.blocks - 1, storers))
        yield from trail.end()
        return StatisticsRef(files=tuple(file for block in trail.done for file in block.files))


def measure_values(
    crew: Crew, measure: Measure, statistics: StatisticsRef | None
) -> Generator[Progress, None, list[dict[str, float]]]:
    """Returns for each block one number under the name "", or one per linear. They follow from weights and
    stored statistics: no block is run, and each worker measures blocks of its own."""
    asked = []
    for block in range(crew.blocks):
        crew.label = f"block {block + 1}/{crew.blocks}"
        following = block + crew.size
        ahead = (following, None) if following < crew.blocks else None
        asked.append(
            crew.ask(block % crew.size, SweepWorker.measured, block, measure, statistics, then=ahead)
        )
    values: list[dict[str, float]] = []
    for one in asked:
        values += crew.wait([one])
        yield Progress(len(values), crew.blocks)
    return values


def _measured(crew: Crew, needs: Needs, *, last: bool) -> list[int]:
    """Measures the loaded block, and begins to store what was found. Returns the worker that stores the
    Hessian of each group, if there are any."""
    asked = crew.ask(0, SweepWorker.sized_groups)
    crew.measure(advance=not last, needs=needs)
    similarity = crew.similarity() if "similarity" in needs else None
    if "expert_gain" in needs:
        crew.spread(SweepWorker.gains, SweepWorker.merge_gains, [0])
    crew.hear(crew.ask(0, SweepWorker.store_statistics, similarity))
    if "hessian" not in needs:
        return []
    sizes = [next(iter(group.values())) for group in crew.answer(asked)]
    shares = shared_by_cost([float(in_features) ** 2 for _, in_features in sizes], crew.size)
    storing = {group: worker for worker, share in enumerate(shares) for group in share}
    storers = [storing[group] for group in range(len(sizes))]
    for group, worker in enumerate(storers):  # all sums first, as in pruning
        crew.sum_up(SweepWorker.gram, SweepWorker.take_gram, [worker], group)
    for group, worker in enumerate(storers):
        crew.hear(crew.ask(worker, SweepWorker.store_hessian, group))
    return storers


def _stored(crew: Crew, block: int, storers: Sequence[int]) -> StoredStatistics:
    """Returns the record of a block when all its files are stored. It is asked for when the next block's
    calls were made, because a worker that is asked waits for the storage."""
    files = [crew.ask(0, SweepWorker.stored_statistics, block)]
    files += [crew.ask(worker, SweepWorker.stored_hessian, block, g) for g, worker in enumerate(storers)]
    return StoredStatistics(files=tuple(crew.wait(files)))
