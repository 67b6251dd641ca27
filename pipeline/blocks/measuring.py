"""A dense sweep: measures the statistics of every linear's input, and the numbers that allocations need."""

from collections.abc import Generator

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
    with Trail(crew, progress, StoredStatistics, whole=whole, samples=samples) as trail:
        yield from trail.resume()
        for block in range(crew.blocks):
            crew.label = f"block {block + 1}/{crew.blocks}"
            if trail.reached <= block < len(trail.done):
                crew.tell(SweepWorker.load, block)
                crew.all(SweepWorker.advance)
            elif block >= len(trail.done):
                crew.tell(SweepWorker.load, block)
                last = block == crew.blocks - 1 and "similarity" not in needs
                files = _measured(crew, needs, last=last)
                taken = trail.snapshot(block)
                trail.add(block, StoredStatistics(files=tuple(crew.wait(files))), taken)
            yield Progress(block + 1, crew.blocks)
        trail.end()
        return StatisticsRef(files=tuple(file for block in trail.done for file in block.files))


def measure_values(
    crew: Crew, measure: Measure, statistics: StatisticsRef | None
) -> Generator[Progress, None, list[dict[str, float]]]:
    """Returns for each block one number under the name "", or one per linear. They follow from weights and
    stored statistics: no block is run, and each worker measures blocks of its own."""
    asked = []
    for block in range(crew.blocks):
        crew.label = f"block {block + 1}/{crew.blocks}"
        asked.append(crew.ask(block % crew.size, SweepWorker.measured, block, measure, statistics))
    values: list[dict[str, float]] = []
    for one in asked:
        values += crew.wait([one])
        yield Progress(len(values), crew.blocks)
    return values


def _measured(crew: Crew, needs: Needs, *, last: bool) -> list[Pending[FileRef]]:
    """Returns the files of the loaded block, which workers are writing."""
    statistics = crew.statistics(advance=not last, needs=needs)
    similarity = crew.similarity() if "similarity" in needs else None
    files = [crew.ask(0, SweepWorker.store_statistics, statistics, similarity)]
    if "hessian" in needs:
        shares = shared_by_cost([float(len(one.input_norm_I)) ** 2 for one in statistics], crew.size)
        storing = {group: worker for worker, share in enumerate(shares) for group in share}
        for group in range(len(statistics)):  # all sums first, as in pruning
            crew.sum_up(SweepWorker.gram, SweepWorker.take_gram, [storing[group]], group)
        for group, one in enumerate(statistics):
            files.append(crew.ask(storing[group], SweepWorker.store_hessian, group, one.samples))
    return files
