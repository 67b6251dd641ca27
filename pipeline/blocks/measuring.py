"""A dense sweep: measures the statistics of every linear's input, and the numbers that allocations need."""

from collections.abc import Generator, Sequence

from pipeline.allocations.measures import Measure
from pipeline.artifacts.artifact import FileRef
from pipeline.artifacts.refs import StatisticsRef
from pipeline.blocks.crew import Crew, Pending
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
    hessians: list[Pending[FileRef]] = []  # those of the last measured block, whose files are being stored
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
                    trail.add(_stored(crew, block - 1, hessians))
                hessians = begun
                if trail.must_leave(block + 1):
                    trail.add(_stored(crew, block, hessians))
                    trail.leave(block + 1)
                trail.enter(block + 1)
            yield from trail.told()
        if crew.blocks > trail.found:
            trail.add(_stored(crew, crew.blocks - 1, hessians))
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


def _measured(crew: Crew, needs: Needs, *, last: bool) -> list[Pending[FileRef]]:
    """Measures the loaded block, and begins to store what was found. Returns the files of its Hessians."""
    statistics = crew.statistics(advance=not last, needs=needs)
    similarity = crew.similarity() if "similarity" in needs else None
    crew.hear(crew.ask(0, SweepWorker.store_statistics, statistics, similarity))
    files = []
    if "hessian" in needs:
        shares = shared_by_cost([float(len(one.input_norm_I)) ** 2 for one in statistics], crew.size)
        storing = {group: worker for worker, share in enumerate(shares) for group in share}
        for group in range(len(statistics)):  # all sums first, as in pruning
            crew.sum_up(SweepWorker.gram, SweepWorker.take_gram, [storing[group]], group)
        for group, one in enumerate(statistics):
            files.append(crew.ask(storing[group], SweepWorker.store_hessian, group, one.samples))
    return files


def _stored(crew: Crew, block: int, hessians: Sequence[Pending[FileRef]]) -> StoredStatistics:
    """Returns the record of a block when all its files are stored."""
    vectors = crew.ask(0, SweepWorker.stored_statistics, block)
    return StoredStatistics(files=tuple(crew.wait([vectors, *hessians])))
