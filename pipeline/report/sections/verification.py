"""The section of the verification: what a fresh process found when it opened the published files."""

from collections.abc import Iterable, Mapping
from typing import Self

from pipeline.artifacts.verification import Verification
from pipeline.report.inputs import Inputs
from pipeline.report.section import Headline, ModelSection

WEIGHTS = {
    "in_memory": "all in memory at once",
    "from_disk": "fetched from the disk part by part, because they are larger than the declared memory",
}


class VerificationHeadline(Headline):
    """The outcome in one line; None in reports from before there was a verification."""

    verified: str | None = None


class VerificationSection(ModelSection):
    """The verification of the published model."""

    verification: Verification | None = None

    @classmethod
    def read(cls, inputs: Inputs) -> Mapping[str, object]:
        """Read what `verify` found."""
        return {"verification": inputs.find("verification", Verification)}

    @classmethod
    def headline(cls, report: Self) -> Headline | None:
        """The outcome in one line."""
        found = report.verification
        return VerificationHeadline(verified=found.words if found is not None else None)

    @classmethod
    def remarks(cls, report: Self) -> Iterable[str]:
        """What is no fault, but worth knowing."""
        return report.verification.remarks if report.verification is not None else ()

    @classmethod
    def view(cls, report: Self) -> Mapping[str, object] | None:
        """The words for the place of the weights; None where nothing was verified."""
        if report.verification is None:
            return None
        return {"weights": WEIGHTS[report.verification.opened.weights]}
