"""A report is the sections that it inherits: a new one is a file and a name."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import pipeline
from pipeline.artifacts.refs import (
    ArtifactRef,
    CheckpointRef,
    KeepRef,
    LinearSparsity,
    ManifestRef,
    SparsityTable,
)
from pipeline.canonical import Frozen
from pipeline.job.ledger import NodeResult
from pipeline.report import sections
from pipeline.report.data import ReportData, Summary, report_json
from pipeline.report.inputs import Document
from pipeline.report.page import render_html
from pipeline.report.section import ModelSection, read_sections, sections_of
from pipeline.report.sweep import SweepData
from pipeline.request.prune_spec import PruneSpec
from pipeline.spec.sparsity_plan import SparsityPlan
from tests.pipeline.report.made_recovery import made_curve, recovered_report
from tests.pipeline.report.made_report import made_evaluation, made_file, made_report, made_stage
from tests.pipeline.request.test_sweeps import made_sweep

REPOSITORY = Path(pipeline.__file__).parents[1]
SECTION = '''"""How many characters the name of the model has."""

from collections.abc import Iterable, Mapping
from typing import ClassVar, Self

from pipeline.report.inputs import Inputs
from pipeline.report.section import Headline, ModelSection, Tile


class LettersHeadline(Headline):
    """The count."""

    letters: int | None = None


class LettersSection(ModelSection):
    """Letters as they were counted."""

    template: ClassVar[str | None] = (
        '<section aria-labelledby="letters"><h2 id="letters">Letters</h2>'
        "<p>{{ words }}, {{ headline.letters }} of {{ data.models | join(' and ') }}</p></section>"
    )
    letters_seen: int | None = None

    @classmethod
    def read(cls, inputs: Inputs) -> Mapping[str, object]:
        """From the artifacts."""
        return {"letters_seen": len(inputs.refs)}

    @classmethod
    def headline(cls, report: Self) -> Headline | None:
        """None in reports from before letters were counted."""
        return LettersHeadline(letters=report.letters_seen)

    @classmethod
    def tiles(cls, report: Self) -> Iterable[Tile]:
        """One figure."""
        yield Tile("Letters", str(report.letters_seen), "of the name")

    @classmethod
    def remarks(cls, report: Self) -> Iterable[str]:
        """A warning."""
        yield "letters were counted"

    @classmethod
    def view(cls, report: Self) -> Mapping[str, object] | None:
        """What is escaped."""
        return {"words": "<" + report.model_name + ">"}
'''
USE = """
import sys
from pipeline.report.data import ReportData, ReportDocument, report_json
from pipeline.report.page import render_html
before = ReportDocument.model_validate_json(open(sys.argv[1]).read()).data
data = before.model_copy(update={"letters_seen": 12})
open("report.html", "w").write(render_html(data))
open("report.json", "wb").write(report_json(data))
assert before.letters_seen is None
assert ReportDocument.model_validate_json(report_json(data)).data == data
"""


@dataclass
class MadeInputs:
    """Documents by the name of the artifact and their path."""

    spec: PruneSpec
    documents: Mapping[tuple[str, str], Frozen | None]
    refs: Mapping[str, ArtifactRef]
    stages: tuple[NodeResult, ...] = ()
    asked: set[str] = field(default_factory=set)

    def load(self, name: str, path: str, document: type[Document]) -> Document | None:
        self.asked.add(name)
        found = self.documents.get((name, path))
        assert found is None or isinstance(found, document)
        return found


def test_a_new_section_is_two_files_by_hand(tmp_path: Path) -> None:
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(REPOSITORY / "pipeline", tmp_path / "pipeline", ignore=ignored)
    (tmp_path / "pipeline/report/sections/letters.py").write_text(SECTION)
    listed = tmp_path / "pipeline/report/data.py"
    text = listed.read_text()
    text = text.replace(
        "\nfrom pipeline.report.sections.linears",
        "\nfrom pipeline.report.sections.letters import LettersHeadline, LettersSection"
        "\nfrom pipeline.report.sections.linears",
    )
    text = text.replace("    LinearsSection,\n", "    LettersSection,\n    LinearsSection,\n")
    text = text.replace("    ZerosHeadline,\n", "    LettersHeadline,\n    ZerosHeadline,\n")
    listed.write_text(text)
    stored = tmp_path / "before.json"  # by a version that knew nothing of letters
    stored.write_bytes(report_json(made_report(blocks=2)))

    here = {**os.environ, "PYTHONPATH": str(tmp_path)}
    subprocess.run([sys.executable, "-c", USE, str(stored)], cwd=tmp_path, check=True, env=here)

    page = (tmp_path / "report.html").read_text()
    assert "<p>&lt;SmolLM2-135M&gt;, 12 of dense and pruned</p>" in page
    assert page.index('id="blocks"') < page.index('id="letters"') < page.index('id="linears"')
    assert "<dt>Letters</dt><dd>12<small>of the name</small></dd>" in page
    assert "<li>letters were counted</li>" in page
    document = json.loads((tmp_path / "report.json").read_text())
    assert document["data"]["letters_seen"] == 12
    assert document["summary"]["letters"] == 12
    assert document["summary"]["notes"] == ["letters were counted"]


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
    documents: dict[tuple[str, str], Frozen | None] = {
        ("dense", "evaluation.json"): data.dense,
        ("pruned", "evaluation.json"): data.pruned,
        ("recovered", "evaluation.json"): data.recovered,
        ("plan", "plan.json"): data.plan,
        ("measurements", "measurements.json"): data.measurements,
        ("keep", "sparsity.json"): data.sparsity,
        ("curve", "curve.json"): made_curve(recovery),
        ("tokens", "tokens.json"): data.tokens,
        ("certificate", "certificate.json"): data.certificate,
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
    documents: dict[tuple[str, str], Frozen | None] = {("dense", "evaluation.json"): made_report().dense}
    refs: dict[str, ArtifactRef] = {}
    stages = []
    for one in swept.members:
        keep, plan, pruned = (f"{name}@{one.number}" for name in ("keep", "plan", "pruned"))
        zeros = round(one.sparsity * 10)
        linear = LinearSparsity(block=0, linear="up", pruned=zeros, zeros=zeros, weights=10)
        loss = math.log(one.perplexity[0].final)
        documents |= {
            (pruned, "evaluation.json"): made_evaluation("ab" * 32, loss=loss),
            (plan, "plan.json"): SparsityPlan(
                asked=one.sparsity, blocks=(one.prune.pattern,), notes=one.notes
            ),
            (keep, "sparsity.json"): SparsityTable(linears=(linear,)),
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
