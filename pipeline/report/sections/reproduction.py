"""The section with the verdict of a job that did the work of an earlier one again."""

from collections.abc import Iterable, Mapping
from typing import Self

from pipeline.job.reproduction import Reproduction
from pipeline.report.section import Headline, Section, Tile


class ReproductionHeadline(Headline):
    """The verdict as a sentence. None where a job reproduces nothing."""

    reproduction: str | None = None


class ReproductionSection(Section):
    """The verdict. The stage fills it, which can read the earlier job's result."""

    reproduction: Reproduction | None = None

    @classmethod
    def headline(cls, report: Self) -> Headline | None:
        """The verdict as a sentence."""
        found = report.reproduction
        return ReproductionHeadline(reproduction=None if found is None else str(found))

    @classmethod
    def tiles(cls, report: Self) -> Iterable[Tile]:
        """A tile with the verdict."""
        if report.reproduction is not None:
            value = "identical" if report.reproduction.identical else "differs"
            yield Tile("Reproduction", value, f"with {report.reproduction.job}")

    @classmethod
    def view(cls, report: Self) -> Mapping[str, object] | None:
        """No names for the template; None where a job reproduces nothing."""
        return None if report.reproduction is None else {}
