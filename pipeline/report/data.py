"""The report of a job of one model: its sections, its summary, and both as JSON."""

import json
from typing import Literal

from pipeline.canonical import Frozen
from pipeline.report.section import sections_of
from pipeline.report.sections.behaviour import BehaviourHeadline, BehaviourSection
from pipeline.report.sections.blocks import BlocksHeadline, BlocksSection
from pipeline.report.sections.digests import DigestsSection
from pipeline.report.sections.environment import EnvironmentSection
from pipeline.report.sections.expert_gains import ExpertGainsSection
from pipeline.report.sections.experts import ExpertsSection
from pipeline.report.sections.linears import LinearsSection
from pipeline.report.sections.mask_overlap import MaskOverlapHeadline, MaskOverlapSection
from pipeline.report.sections.masks import MasksHeadline, MasksSection
from pipeline.report.sections.perplexity import PerplexityHeadline, PerplexitySection
from pipeline.report.sections.quantized import QuantizedHeadline, QuantizedSection
from pipeline.report.sections.reconstruction import ReconstructionSection
from pipeline.report.sections.recovery import RecoveryHeadline, RecoverySection
from pipeline.report.sections.reproduction import ReproductionHeadline, ReproductionSection
from pipeline.report.sections.serving import ServingHeadline, ServingSection
from pipeline.report.sections.sizes import SizesSection
from pipeline.report.sections.source import SourceSection
from pipeline.report.sections.spec import SpecSection
from pipeline.report.sections.stages import StagesHeadline, StagesSection
from pipeline.report.sections.tasks import TasksHeadline, TasksSection
from pipeline.report.sections.tournament import TournamentSection
from pipeline.report.sections.verification import VerificationHeadline, VerificationSection
from pipeline.report.sections.vocabulary import VocabularySection
from pipeline.report.sections.zeros import ZerosHeadline, ZerosSection
from pipeline.report.summary import summary_line


class ReportData(
    SourceSection,
    PerplexitySection,
    TasksSection,
    BehaviourSection,
    SizesSection,
    ExpertGainsSection,
    VocabularySection,
    QuantizedSection,
    ServingSection,
    MasksSection,
    RecoverySection,
    BlocksSection,
    LinearsSection,
    TournamentSection,
    ReconstructionSection,
    ExpertsSection,
    MaskOverlapSection,
    ZerosSection,
    VerificationSection,
    ReproductionSection,
    StagesSection,
    EnvironmentSection,
    DigestsSection,
    SpecSection,
):
    """The data of all sections, in the order of the page. A new section is a file in `sections/` and a name
    here; where it has figures for the summary, their class is a base of Summary."""

    @property
    def notes(self) -> tuple[str, ...]:
        """All warnings, in the order of the sections."""
        remarks = (remark for section in sections_of(ReportData) for remark in section.remarks(self))
        return (*self.warnings, *remarks)


class Summary(
    PerplexityHeadline,
    TasksHeadline,
    BehaviourHeadline,
    QuantizedHeadline,
    ServingHeadline,
    MasksHeadline,
    RecoveryHeadline,
    BlocksHeadline,
    MaskOverlapHeadline,
    ZerosHeadline,
    VerificationHeadline,
    ReproductionHeadline,
    StagesHeadline,
):
    """The figures that tables of jobs show: the headlines of the sections that have one."""

    model: str
    recipe: str
    notes: tuple[str, ...]


class ReportDocument(Frozen):
    """Content of `report.json`."""

    object: Literal["report"] = "report"
    summary: Summary
    data: ReportData


def report_json(data: ReportData) -> bytes:
    """Write `report.json`, a ReportDocument, indented. Raises UnequalContracts."""
    document = ReportDocument(summary=summarise(data), data=data)
    text = json.dumps(document.model_dump(mode="json"), indent=1, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode()


def summarise(data: ReportData) -> Summary:
    """Collect the headlines of all sections. Raises UnequalContracts."""
    headlines = [section.headline(data) for section in sections_of(ReportData)]
    figures = {name: value for one in headlines if one is not None for name, value in one}
    return Summary.model_validate(
        {"model": data.model_name, "recipe": summary_line(data.spec), "notes": data.notes, **figures}
    )
