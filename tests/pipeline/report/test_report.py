"""The report says what was measured, in one file that asks nobody for anything."""

import json
import math
import re
from html.parser import HTMLParser

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pipeline.artifacts.sparsity import BlockExperts, ExpertTable, LinearSparsity, SparsityTable
from pipeline.evaluation.comparison import Comparison, compare
from pipeline.evaluation.contracts import UnequalContracts
from pipeline.report.data import ReportData, ReportDocument, report_json, summarise
from pipeline.report.drawing.block_chart import block_chart, block_sparsity, nice_ticks
from pipeline.report.page import render_html
from pipeline.report.quantity import human_bytes, human_figure, human_perplexity, human_seconds
from pipeline.report.sections.linears import heatmap
from pipeline.report.summary import seeds_of, summary_line
from pipeline.request.prune_spec import PruneSpec
from pipeline.sources.pins import MODEL
from pipeline.spec.evaluation import Evaluation, EvaluationResult
from pipeline.spec.patterns import NM
from pipeline.spec.sparsity_plan import SparsityPlan
from tests.pipeline.evaluation.made_tasks import with_tasks
from tests.pipeline.report.made_report import DENSE, LINEARS, PRUNED, made_evaluation, made_report, made_spec

VOID = {"meta", "link", "br"}


class Page(HTMLParser):
    """Tags, attributes and text of a page; checks that tags are closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.tables: dict[str, list[list[str]]] = {}
        self._open: list[str] = []
        self._table: list[list[str]] | None = None
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "table":
            self._table = self.tables.setdefault(attributes.get("id") or "", [])
        elif tag == "tr" and self._table is not None:
            self._table.append([])
        elif tag in ("td", "th") and self._table is not None:
            self._table[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)
        if self._table and self._table[-1] and {"td", "th"} & set(self._open):
            self._table[-1][-1] += data

    def count(self, tag: str, css: str) -> int:
        """Elements with this class."""
        return sum(1 for name, attrs in self.tags if name == tag and attrs.get("class") == css)


@pytest.mark.parametrize("blocks", [1, 2, 30, 80, 200])
def test_page_draws_every_block(blocks: int) -> None:
    page = Page(render_html(made_report(blocks=blocks)))
    assert page.count("rect", "measured") == blocks
    assert page.count("rect", "sparsity") == blocks
    assert page.count("line", "mark") == blocks
    rows = page.tables["linears-table"]
    assert [row[0] for row in rows[1:-1]] == [str(block) for block in range(blocks)]
    assert all(len(row) == 1 + len(LINEARS) for row in rows)


def test_bars_stay_inside_the_picture_and_grow_with_the_value() -> None:
    data = made_report(blocks=80)
    chart = block_chart(data.plan, data.sparsity, data.measurements, asked=data.asked)
    for panel in chart.panels:
        assert all(panel.top <= bar.y <= panel.bottom for bar in panel.bars)
        assert all(chart.left <= bar.x and bar.x + bar.width <= chart.right for bar in panel.bars)
        assert all(bar.height >= 0 for bar in panel.bars)
    assert data.measurements is not None
    heights = [bar.height for bar in chart.panels[0].bars]
    order = sorted(range(80), key=data.measurements.blocks.__getitem__)
    assert [heights[block] for block in order] == sorted(heights)
    assert len(chart.x_ticks) <= 16


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


@pytest.mark.parametrize("render", [render_html, report_json])
def test_unequal_contracts_are_refused(render: object) -> None:
    data = made_report().model_copy(update={"pruned": made_evaluation(PRUNED, loss=3, stride=256)})
    assert callable(render)
    with pytest.raises(
        UnequalContracts, match=r"'wiki.txt' is not comparable: stride is 512 for dense and 256"
    ):
        render(data)


def test_other_texts_are_refused() -> None:
    with pytest.raises(UnequalContracts, match="evaluate both on the same texts"):
        compare(made_evaluation(DENSE, loss=2), made_evaluation(PRUNED, loss=2, name="c4"))


def test_models_with_their_own_tokens_are_compared_by_the_byte() -> None:
    dense, cut = (
        made_evaluation(checkpoint, loss=loss).model_copy()
        for checkpoint, loss in ((DENSE, 3.0), (PRUNED, 2.5))
    )

    def cut_as(evaluation: EvaluationResult, **changes: object) -> EvaluationResult:
        (text,) = evaluation.perplexity
        contract = text.contract.model_copy(update=changes)
        return evaluation.model_copy(update={"perplexity": (text.model_copy(update={"contract": contract}),)})

    dense = cut_as(dense, tokens_per_byte=0.25)
    cut = cut_as(cut, tokens_per_byte=0.4, tokenizer_digest="other", windows=20, tokens_scored=20 * 511)
    (row,) = compare(dense, cut, own_tokenizers=True)
    assert (row.dense, row.pruned) == pytest.approx((math.exp(0.75), math.exp(1.0)))
    assert row.ratio == pytest.approx(math.exp(0.25))  # a lower loss by the token, and worse by the byte
    assert (row.per, row.title) == ("byte", "wiki.txt, per byte")
    with pytest.raises(UnequalContracts, match="tokenizer_digest"):
        compare(dense, cut)
    with pytest.raises(UnequalContracts, match="stride"):
        compare(dense, cut_as(cut, stride=256), own_tokenizers=True)
    with pytest.raises(UnequalContracts, match="without tokens per byte"):
        compare(dense, cut_as(cut, tokens_per_byte=None), own_tokenizers=True)


@given(st.floats(1.5, 1e3), st.floats(1.01, 1e3), st.floats(-0.5, 1.5))
def test_recovered_share_is_a_share_of_the_lost_log_perplexity(
    dense: float, worse: float, share: float
) -> None:
    pruned = dense * worse
    recovered = math.exp(math.log(pruned) - share * (math.log(pruned) - math.log(dense)))
    contract = made_evaluation(DENSE, loss=2).perplexity[0].contract
    row = Comparison(
        name="t", dense=dense, pruned=pruned, recovered=recovered, ratio=recovered / dense, contract=contract
    )
    assert row.recovered_share == pytest.approx(share, abs=1e-6)
    assert row.final == recovered
    assert row.model_copy(update={"pruned": None}).recovered_share is None
    assert row.model_copy(update={"pruned": dense * 0.99}).recovered_share is None


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


def test_heatmap_spans_from_least_to_most_sparse() -> None:
    table = made_report(blocks=4).sparsity
    picture = heatmap(table)
    heats = [cell.heat for _, cells in picture.rows for cell in cells if cell is not None]
    assert min(heats) == 0
    assert max(heats) == 1
    without = table.model_copy(update={"linears": table.linears[1:]})
    assert heatmap(without).rows[0][1][-1] is None


def test_experts_of_a_block_are_one_cell_and_their_tokens_a_table() -> None:
    def linear(name: str, zeros: int) -> LinearSparsity:
        return LinearSparsity(block=0, linear=name, pruned=zeros, zeros=zeros, weights=10)

    names = ["mlp.experts.0.up_proj", "mlp.experts.1.up_proj", "mlp.experts.12.up_proj", "mlp.shared.up_proj"]
    table = SparsityTable(linears=tuple(linear(name, i) for i, name in enumerate(names)))
    picture = heatmap(table)
    assert picture.columns == ("mlp.experts.*.up_proj", "mlp.shared.up_proj")
    cell = picture.rows[0][1][0]
    assert cell is not None
    assert (cell.linear.zeros, cell.linear.weights) == (3, 30)
    assert picture.totals == (0.1, 0.3)

    data = made_report(blocks=2)
    assert "experts-table" not in render_html(data)
    blocks = (BlockExperts(block=0, tokens=(31, 40, 0)), BlockExperts(block=1, tokens=(32, 50, 7000)))
    data = data.model_copy(update={"experts": ExpertTable(minimum_tokens=32, blocks=blocks)})
    page = render_html(data)
    row = "<td>0</td><td>3</td><td>0</td><td>31</td><td>40</td><td>2</td>"
    assert row in page
    assert "32 50 7000" in page
    note = "2 of 6 experts saw fewer than 32 calibration tokens and were pruned by their weights alone"
    assert any(one.startswith(note) for one in data.notes)
    assert ReportDocument.model_validate_json(report_json(data)).data == data


def test_block_sparsity_weighs_linears_by_size() -> None:
    data = made_report(blocks=3)
    assert block_sparsity(data.sparsity, blocks=3) == pytest.approx(data.plan.sparsity, abs=1e-5)


@pytest.mark.parametrize(
    ("maximum", "ticks"),
    [
        (0.55, (0, 0.2, 0.4, 0.6)),
        (1.0, (0, 0.5, 1)),
        (0, (0, 1)),
        (7.3, (0, 2, 4, 6, 8)),
        (0.00031, (0, 0.0001, 0.0002, 0.0003, 0.0004)),
    ],
)
def test_ticks_are_round(maximum: float, ticks: tuple[float, ...]) -> None:
    assert nice_ticks(maximum) == pytest.approx(ticks)


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (human_bytes(0), "0 B"),
        (human_bytes(1536), "1.5 KiB"),
        (human_bytes(5 * 2**60), "5120.0 PiB"),
        (human_seconds(0.04), "0.0 s"),
        (human_seconds(9.96), "10 s"),
        (human_seconds(59.7), "1 min 00 s"),
        (human_seconds(7325), "2 h 02 min"),
        (human_perplexity(19.529), "19.53"),
        (human_perplexity(123456.7), "123,457"),
        (human_perplexity(3.2e9), "3.20e+09"),
        (human_figure("idle_memory_bytes", 2**20), "idle memory 1.0 MiB"),
        (human_figure("waited_seconds", 75), "waited 1 min 15 s"),
        (human_figure("tokens", 81920), "tokens 81,920"),
    ],
)
def test_quantities(shown: str, expected: str) -> None:
    assert shown == expected


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
