"""The report says what was measured, in one file that asks nobody for anything."""

import json
import re

import pytest
import yaml

from pipeline.artifacts.sparsity import SparsityTable
from pipeline.report.data import ReportData, ReportDocument, report_json, summarise
from pipeline.report.page import render_html
from pipeline.report.summary import seeds_of, summary_line
from pipeline.request.prune_spec import PruneSpec
from pipeline.sources.pins import MODEL
from pipeline.spec.evaluation import Evaluation, EvaluationResult
from pipeline.spec.patterns import NM
from pipeline.spec.sparsity_plan import SparsityPlan
from tests.pipeline.evaluation.made_tasks import with_tasks
from tests.pipeline.report.made_report import DENSE, LINEARS, PRUNED, made_evaluation, made_report, made_spec
from tests.pipeline.report.pages import Page


@pytest.mark.parametrize("blocks", [1, 2, 30, 80, 200])
def test_page_draws_every_block(blocks: int) -> None:
    page = Page(render_html(made_report(blocks=blocks)))
    assert page.count("rect", "measured") == blocks
    assert page.count("rect", "sparsity") == blocks
    assert page.count("line", "mark") == blocks
    rows = page.tables["linears-table"]
    assert [row[0] for row in rows[1:-1]] == [str(block) for block in range(blocks)]
    assert all(len(row) == 1 + len(LINEARS) for row in rows)


def test_page_asks_nobody_for_anything() -> None:
    html = render_html(made_report())
    page = Page(html)
    assert not re.search(r"(https?:)?//[a-z]", html, re.IGNORECASE)
    assert not {"script", "img", "iframe", "object", "embed", "base"} & {tag for tag, _ in page.tags}
    links = [attrs.get(name) for _, attrs in page.tags for name in ("href", "src", "xlink:href", "srcset")]
    assert [link for link in links if link is not None] == ["data:,"]
    assert "@import" not in html
    assert "url(" not in html


def test_page_fits_light_dark_phone_paper_and_screen_readers() -> None:
    html = render_html(made_report())
    page = Page(html)
    assert "prefers-color-scheme: dark" in html
    assert "@media print" in html
    assert any(attrs.get("name") == "viewport" for _, attrs in page.tags)
    ids = [attrs["id"] for _, attrs in page.tags if attrs.get("id")]
    assert len(ids) == len(set(ids))
    svg = next(attrs for tag, attrs in page.tags if tag == "svg")
    assert svg["role"] == "img"
    for _, attrs in page.tags:
        for target in (attrs.get("aria-labelledby") or "").split():
            assert target in ids


def test_page_shows_every_figure() -> None:
    data = made_report()
    html = render_html(data)
    page = Page(html)
    shown = "".join(page.text)
    assert "19.53 → 43.16" in shown
    row = page.tables["perplexity-table"][1]
    assert row == ["wiki.txt", "19.53", "43.16", "2.210", "512", "512", "none", "16", "8176", "float32"]
    for stage in data.stages:
        assert stage.key in shown
        assert all(artifact.digest in shown for artifact in stage.artifacts.values())
    cached = {row[0] for row in page.tables["stages-table"] if row[1] == "cached"}
    assert cached == {"import_model", "calibrate"}
    contract = data.dense.perplexity[0].contract
    for text in (
        DENSE,
        PRUNED,
        contract.text_digest,
        contract.tokenizer_digest,
        data.manifest_prefix,
        "EPYC 7763",
        "transformers",
        "5.23.0",
        "2 of 9 stages",
        *(file.tag for file in data.pins.of(MODEL).files),
    ):
        assert text in shown


def test_page_holds_a_spec_that_can_be_submitted_again() -> None:
    data = made_report()
    page = Page(render_html(data))
    start = "".join(page.text).index("spec:\n")
    body = yaml.safe_load("".join(page.text)[start:])
    assert PruneSpec.model_validate(body["spec"]) == data.spec


def test_hostile_names_stay_text() -> None:
    hostile = "</title><script>alert(1)</script>\"'><img src=x onerror=1>"
    spec = made_spec(model="file:/models/<b onmouseover=x>&amp;")
    data = made_report(spec=spec, name=hostile)
    linears = tuple(
        linear.model_copy(update={"linear": "<i>.</i>"}) if i == 0 else linear
        for i, linear in enumerate(data.sparsity.linears)
    )
    data = data.model_copy(
        update={
            "sparsity": data.sparsity.model_copy(update={"linears": linears}),
            "warnings": (hostile,),
            "job_name": hostile,
            "dense": made_evaluation(DENSE, loss=2, name=hostile),
            "pruned": made_evaluation(PRUNED, loss=3, name=hostile),
        }
    )
    page = Page(render_html(data))
    assert not {"script", "img", "b", "i"} & {tag for tag, _ in page.tags}
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    assert hostile in "".join(page.text)


def test_without_measurements_texts_or_calibration() -> None:
    data = made_report().model_copy(
        update={
            "measurements": None,
            "dense": EvaluationResult(checkpoint_digest=DENSE),
            "pruned": EvaluationResult(checkpoint_digest=PRUNED),
            "spec": made_spec().model_copy(update={"calibration": None, "evaluation": Evaluation()}),
            "job": None,
            "job_name": None,
            "manifest_digest": None,
        }
    )
    page = Page(render_html(data))
    assert page.count("rect", "measured") == 0
    assert page.count("rect", "sparsity") == 30
    assert "not measured" in "".join(page.text)
    assert summarise(data).perplexity == ()


def test_notes_reach_the_page() -> None:
    data = made_report()
    plan = SparsityPlan(asked=0.6, blocks=data.plan.blocks, notes=("a note of the allocation",))
    data = data.model_copy(update={"plan": plan, "warnings": ("a warning of the job",)})
    shown = "".join(Page(render_html(data)).text)
    assert "a note of the allocation" in shown
    assert "a warning of the job" in shown
    assert "below the asked 0.6" in shown
    assert not made_report().notes


def test_linears_whose_method_deviated_are_named_together() -> None:
    data = made_report()
    note = "damping raised from 0.01 to 0.1"
    linears = [
        linear.model_copy(update={"note": note}) if linear.linear == "mlp.down_proj" else linear
        for linear in data.sparsity.linears
    ]
    data = data.model_copy(update={"sparsity": SparsityTable(linears=tuple(linears))})
    (told,) = (told for told in data.notes if told.startswith(note))
    assert told.endswith("block 4 mlp.down_proj and 25 more)")
    assert told in "".join(Page(render_html(data)).text)


def test_json_comes_back_as_it_was() -> None:
    data = made_report()
    document = ReportDocument.model_validate_json(report_json(data))
    assert document.data == data
    assert document.summary == summarise(data)
    plain = json.loads(report_json(data))
    assert plain["object"] == "report"
    assert plain["summary"]["perplexity"][0]["ratio"] == pytest.approx(2.21, abs=0.001)
    assert plain["summary"]["cached_stages"] == 2
    assert plain["summary"]["seconds"] == pytest.approx(239.51)
    assert plain["summary"]["peak_memory_bytes"] == 300_000_008


def test_an_older_report_is_read() -> None:
    plain = json.loads(report_json(made_report(blocks=2)))
    for row in plain["summary"]["perplexity"]:
        del row["recovered"]
    for name in ("training", "held", "checks"):
        del plain["summary"][name]
    for name in ("recovered", "recovered_tasks", "training", "tokens", "certificate"):
        del plain["data"][name]
    del plain["data"]["spec"]["recovery"]
    sources, models = plain["data"]["pins"]["sources"], plain["data"]["pins"]["models"]
    plain["data"]["pins"] = {
        "model": sources[MODEL],
        "facts": models[MODEL],
        "calibration": sources["spec.calibration.source"],
        "perplexity": [sources["spec.evaluation.perplexity.0.source"]],
    }
    assert ReportDocument.model_validate_json(json.dumps(plain)) == ReportDocument.model_validate_json(
        report_json(made_report(blocks=2))
    )


def test_recipe() -> None:
    spec = made_spec()
    assert summary_line(spec) == "wanda · owl · unstructured 0.5"
    nm = spec.model_copy(update={"prune": spec.prune.model_copy(update={"pattern": NM(keep=2, group=4)})})
    assert summary_line(nm) == "wanda · owl · 2:4"


def test_data_is_checked_on_its_way_in() -> None:
    assert ReportData.model_validate_json(made_report().model_dump_json()) == made_report()


def test_tasks_stand_side_by_side() -> None:
    data = with_tasks(made_report(blocks=2), limit=25)
    page = Page(render_html(data))
    head, *rows = page.tables["tasks-table"]
    assert head[:2] == ["Task", "Metric"]
    assert [row[0] for row in rows] == [
        *("arc_easy", "arc_easy", "mmlu", "mmlu_stem", "mmlu_anatomy", "lambada_openai", "lambada_openai")
    ]
    assert rows[1][1:] == ["acc_norm ↑", "0", "25 limit 25", "0.5500 ± 0.0200", "0.3000 ± 0.0200", "-0.2500"]
    assert rows[5][1] == "perplexity ↓"
    text = " ".join(page.text)
    assert "limit 25: not comparable with published figures." in text
    assert "arc_easy, acc_norm" in text  # in the head of the page
    marked = [attrs for tag, attrs in page.tags if tag == "b"]
    assert len(marked) == 1 + 6  # the caption's word, and all differences but lambada's accuracy
    document = ReportDocument.model_validate_json(report_json(data))
    assert [(task.task, task.main) for task in document.summary.tasks if task.main] == [
        ("arc_easy", True),
        ("mmlu", True),
        ("lambada_openai", True),
    ]
    assert "few-shot examples" in seeds_of(data.spec)
    assert "tasks-table" not in render_html(made_report(blocks=2))
    assert "published figures" not in render_html(with_tasks(made_report(blocks=2)))
