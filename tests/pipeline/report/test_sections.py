"""A report is the sections that it inherits, and each of them reads its part."""

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pydantic import BaseModel

from pipeline.allocations.measures import Measurements
from pipeline.artifacts.certificate import Certificate
from pipeline.artifacts.curve import Curve, TokensIndex
from pipeline.artifacts.refs import ArtifactRef, CheckpointRef, KeepRef, ManifestRef
from pipeline.artifacts.sparsity import LinearSparsity, SparsityTable
from pipeline.job.ledger import NodeResult
from pipeline.report import sections
from pipeline.report.data import ReportData, Summary
from pipeline.report.inputs import Document
from pipeline.report.page import render_html
from pipeline.report.section import ModelSection, read_sections, sections_of
from pipeline.report.sweep import SweepData
from pipeline.request.prune_spec import PruneSpec
from pipeline.spec.evaluation import EvaluationResult
from pipeline.spec.sparsity_plan import SparsityPlan
from tests.pipeline.report.made_recovery import made_curve, recovered_report
from tests.pipeline.report.made_report import made_evaluation, made_file, made_report, made_stage
from tests.pipeline.request.test_sweeps import made_sweep


@dataclass
class MadeInputs:
    """Documents by the name of the artifact and their type."""

    spec: PruneSpec
    documents: Mapping[tuple[str, type[BaseModel]], BaseModel | None]
    refs: Mapping[str, ArtifactRef]
    stages: tuple[NodeResult, ...] = ()
    asked: set[str] = field(default_factory=set)

    def load(self, name: str, document: type[Document]) -> Document:
        found = self.find(name, document)
        assert found is not None
        return found

    def find(self, name: str, document: type[Document]) -> Document | None:
        self.asked.add(name)
        found = self.documents.get((name, document))
        assert found is None or isinstance(found, document)
        return found


def test_every_file_of_a_section_is_on_a_page() -> None:
    on_pages = (*sections_of(ReportData), *sections_of(SweepData))
    listed = {section.__module__.rpartition(".")[-1] for section in on_pages}
    assert listed == {path.stem for path in Path(sections.__path__[0]).glob("*.py")} - {"__init__"}


def test_no_field_belongs_to_two_sections_and_no_figure_to_two_headlines() -> None:
    own = [set(section.model_fields) - set(ModelSection.model_fields) for section in sections_of(ReportData)]
    heads = [set(headline.model_fields) for headline in Summary.__bases__]
    for parts in (own, heads):
        counts = Counter(name for part in parts for name in part)
        assert [name for name, count in counts.items() if count > 1] == []


def test_sections_read_what_the_report_holds() -> None:
    data = recovered_report(blocks=2)
    recovery = data.spec.recovery
    assert recovery is not None
    documents: dict[tuple[str, type[BaseModel]], BaseModel | None] = {
        ("dense", EvaluationResult): data.dense,
        ("pruned", EvaluationResult): data.pruned,
        ("recovered", EvaluationResult): data.recovered,
        ("plan", SparsityPlan): data.plan,
        ("measurements", Measurements): data.measurements,
        ("keep", SparsityTable): data.sparsity,
        ("curve", Curve): made_curve(recovery),
        ("tokens", TokensIndex): data.tokens,
        ("certificate", Certificate): data.certificate,
    }
    inputs = MadeInputs(data.spec, documents, {"manifest": ManifestRef(files=(), prefix="published/x/")})
    read = read_sections(ReportData, inputs)
    assert {name: value for name, value in read.items() if value != getattr(data, name)} == {
        "checkpoints": {},
        "manifest_prefix": "published/x/",
        "manifest_digest": inputs.refs["manifest"].digest,
    }
    assert {"pruned_keep", "tournament", "agreements", "mask_curve"} <= inputs.asked


def test_the_members_of_a_sweep_are_read_by_their_numbers() -> None:
    swept = made_sweep().data
    documents: dict[tuple[str, type[BaseModel]], BaseModel | None] = {
        ("dense", EvaluationResult): made_report().dense
    }
    refs: dict[str, ArtifactRef] = {}
    stages = []
    for one in swept.members:
        keep, plan, pruned = (f"{name}@{one.number}" for name in ("keep", "plan", "pruned"))
        zeros = round(one.sparsity * 10)
        linear = LinearSparsity(block=0, linear="up", pruned=zeros, zeros=zeros, weights=10)
        loss = math.log(one.perplexity[0].final)
        documents |= {
            (pruned, EvaluationResult): made_evaluation("ab" * 32, loss=loss),
            (plan, SparsityPlan): SparsityPlan(
                asked=one.sparsity, blocks=(one.prune.pattern,), notes=one.notes
            ),
            (keep, SparsityTable): SparsityTable(linears=(linear,)),
        }
        refs[keep] = KeepRef(files=(made_file(keep),))
        made = {"keep": refs[keep], "checkpoint": CheckpointRef(files=(made_file(pruned),))}
        stages.append(made_stage(f"prune@{one.number}", made, 2.5 * one.number))
    inputs = MadeInputs(swept.spec, documents, refs, stages=tuple(stages))
    members = read_sections(SweepData, inputs)["members"]
    assert isinstance(members, tuple)
    for member, expected, stage in zip(members, swept.members, stages, strict=True):
        assert member.perplexity[0].ratio == pytest.approx(expected.perplexity[0].ratio)
        cost = {"seconds": 2.5 * expected.number, "checkpoint": stage.artifacts["checkpoint"].digest}
        assert member == expected.model_copy(update={**cost, "perplexity": member.perplexity})


def test_the_head_of_the_page_tells_the_result_before_the_work() -> None:
    titles = re.findall(r"<dt>([^<]+)</dt><dd>[^<]+<small>", render_html(recovered_report(blocks=2)))
    assert titles == ["Perplexity, wiki.txt", "Won back", "Sparsity", "Training", "Work", "Peak memory"]
