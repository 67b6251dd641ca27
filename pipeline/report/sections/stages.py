"""The section with the cost of each stage."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Self

from pipeline.job.ledger import NodeResult
from pipeline.report.quantity import human_bytes, human_error, human_seconds
from pipeline.report.section import Headline, Section, Tile

GPU_PEAK = "gpu_memory_bytes"  # the name of the highest GPU memory among a stage's details


class StagesHeadline(Headline):
    """The cost of the job. `seconds`: time of the stages that ran, without cached ones."""

    seconds: float
    peak_memory_bytes: int | None
    stages: int
    cached_stages: int


class StagesSection(Section):
    """The stages of the job itself."""

    @classmethod
    def headline(cls, report: Self) -> Headline | None:
        """The cost summed over all stages."""
        return _cost(report.stages)

    @classmethod
    def tiles(cls, report: Self) -> Iterable[Tile]:
        """A tile for time, and one for memory."""
        cost = _cost(report.stages)
        peak = cost.peak_memory_bytes
        cached = f"{cost.cached_stages} of {cost.stages} stages from the cache"
        yield Tile("Work", human_seconds(cost.seconds), cached, work=True)
        measured = "not measured" if peak is None else human_bytes(peak)
        yield Tile("Peak memory", measured, "of one process, any stage", work=True)

    @classmethod
    def remarks(cls, report: Self) -> Iterable[str]:
        """Warnings about stages of the gang (others declare no memory) that took more than declared."""
        for stage in report.stages:
            peak = stage.measured.peak_memory_bytes
            if report.declared_memory_bytes is None or peak is None or stage.cached:
                continue
            if "idle_memory_bytes" in stage.measured.details and peak > report.declared_memory_bytes:
                yield (
                    f"{stage.node} took {human_bytes(peak)} on a worker, and resources.memory_per_worker "
                    f"declares {human_bytes(report.declared_memory_bytes)}: raise it, or use more workers"
                )

    @classmethod
    def view(cls, report: Self) -> Mapping[str, object] | None:
        """The time of the slowest stage that ran, which scales the bars, and what each stage was expected to
        cost: by node, its time and its memory, each with the error of the estimate."""
        ran = [stage.measured.seconds for stage in report.stages if not stage.cached]
        return {"slowest": max(ran, default=0.0), "expected": _expected(report)}


def _expected(report: StagesSection) -> dict[str, tuple[str, str]]:
    """The estimate of each node that has one, in words. A cached stage may have been made with other
    resources, so its estimate is not compared."""
    measured = {stage.node: stage.measured for stage in report.stages if not stage.cached}
    found = {}
    for one in report.estimates:
        if one.node not in measured:
            continue
        actual = measured[one.node]
        seconds = memory = "–"
        if one.seconds is not None:
            seconds = f"{human_seconds(one.seconds)} ({human_error(one.seconds, actual.seconds)})"
        if one.memory_bytes is not None and actual.peak_memory_bytes is not None:
            error = human_error(one.memory_bytes, actual.peak_memory_bytes)
            memory = f"{human_bytes(one.memory_bytes)} ({error})"
        if one.gpu_memory_bytes is not None:
            memory += f", GPU {human_bytes(one.gpu_memory_bytes)}"
            peak = actual.details.get(GPU_PEAK)
            memory += "" if peak is None else f" ({human_error(one.gpu_memory_bytes, peak)})"
        found[one.node] = (seconds, memory)
    return found


def _cost(stages: Sequence[NodeResult]) -> StagesHeadline:
    peaks = [one.measured.peak_memory_bytes for one in stages]
    return StagesHeadline(
        seconds=sum(stage.measured.seconds for stage in stages if not stage.cached),
        peak_memory_bytes=max((peak for peak in peaks if peak is not None), default=None),
        stages=len(stages),
        cached_stages=sum(stage.cached for stage in stages),
    )
