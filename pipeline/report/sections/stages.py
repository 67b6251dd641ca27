"""The section with the cost of each stage."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Self

from pipeline.job.ledger import NodeResult
from pipeline.report.quantity import human_bytes, human_seconds
from pipeline.report.section import Headline, Section, Tile


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
        """The time of the slowest stage that ran, which scales the bars."""
        ran = [stage.measured.seconds for stage in report.stages if not stage.cached]
        return {"slowest": max(ran, default=0.0)}


def _cost(stages: Sequence[NodeResult]) -> StagesHeadline:
    peaks = [one.measured.peak_memory_bytes for one in stages]
    return StagesHeadline(
        seconds=sum(stage.measured.seconds for stage in stages if not stage.cached),
        peak_memory_bytes=max((peak for peak in peaks if peak is not None), default=None),
        stages=len(stages),
        cached_stages=sum(stage.cached for stage in stages),
    )
