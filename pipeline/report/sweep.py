"""The report of a sweep: its sections, and its JSON."""

import json
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from pipeline.canonical import Frozen
from pipeline.report.data import ReportDocument
from pipeline.report.sections.environment import EnvironmentSection
from pipeline.report.sections.members import MembersSection
from pipeline.report.sections.reproduction import ReproductionSection
from pipeline.report.sections.spec import SpecSection
from pipeline.report.sections.stages import StagesSection


class SweepData(
    MembersSection,
    ReproductionSection,
    StagesSection,
    EnvironmentSection,
    SpecSection,
):
    """The data of all sections of a sweep's page, in the order of the page."""


class SweepDocument(Frozen):
    """Content of a sweep's `report.json`."""

    object: Literal["sweep_report"] = "sweep_report"
    recipe: str
    data: SweepData


_ANY: TypeAdapter[ReportDocument | SweepDocument] = TypeAdapter(
    Annotated[ReportDocument | SweepDocument, Field(discriminator="object")]
)


def sweep_json(document: SweepDocument) -> bytes:
    """Write a sweep's `report.json`, indented."""
    text = json.dumps(document.model_dump(mode="json"), indent=1, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode()


def read_any_report(content: bytes | str) -> ReportDocument | SweepDocument:
    """Read `report.json` of any job, of one model or of a sweep."""
    return _ANY.validate_json(content)
