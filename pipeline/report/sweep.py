"""The report of a sweep: its sections, and as JSON."""

import json
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from pipeline.canonical import Frozen
from pipeline.report.data import ReportDocument
from pipeline.report.sections.environment import EnvironmentSection
from pipeline.report.sections.members import MembersSection
from pipeline.report.sections.spec import SpecSection
from pipeline.report.sections.stages import StagesSection


class SweepData(
    MembersSection,
    StagesSection,
    EnvironmentSection,
    SpecSection,
):
    """Everything that the page of a sweep shows: its sections, in the order of the page."""


class SweepDocument(Frozen):
    """Content of a sweep's `report.json`."""

    object: Literal["sweep_report"] = "sweep_report"
    recipe: str
    data: SweepData


_ANY: TypeAdapter[ReportDocument | SweepDocument] = TypeAdapter(
    Annotated[ReportDocument | SweepDocument, Field(discriminator="object")]
)


def sweep_json(document: SweepDocument) -> bytes:
    """`report.json`, indented."""
    text = json.dumps(document.model_dump(mode="json"), indent=1, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode()


def read_any_report(content: bytes | str) -> ReportDocument | SweepDocument:
    """`report.json` of a job, whatever it did."""
    return _ANY.validate_json(content)
