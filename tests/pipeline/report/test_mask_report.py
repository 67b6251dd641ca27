"""What reports and model cards say of masks that were learned."""

import json
import re
from typing import Any

import pytest

from pipeline.artifacts.mask_overlap import LinearOverlap, MaskOverlap
from pipeline.report.data import ReportData, ReportDocument, report_json, summarise
from pipeline.report.drawing.mask_curves import mask_block_chart, mask_chart
from pipeline.report.figures.masks import MAX_RECORDS, mask_learning
from pipeline.report.page import render_html
from pipeline.report.sections.mask_overlap import overlap_map, overlap_rows
from pipeline.report.side_file import SideFile
from pipeline.report.summary import summary_line
from pipeline.spec.patterns import NM
from tests.pipeline.report.made_learned import (
    STEPS,
    learned_report,
    learned_spec,
    made_mask_curve,
    made_masks,
    made_overlaps,
    made_training,
)
from tests.pipeline.report.made_recovery import BATCH, LENGTH, made_recovery, recovered_report
from tests.pipeline.report.made_report import LINEARS, made_report
from tests.pipeline.report.pages import Page
from tests.pipeline.report.test_model_card import card_of, front_matter, side_of

BLOCK = {"scope": "block", "epochs": 4}
STORED = {"kind": "stored", "source": "s3://runs/a/masks/keep.safetensors"}


def page_of(data: ReportData) -> tuple[Page, str]:
    page = Page(render_html(data))
    ids = [attrs["id"] for _, attrs in page.tags if attrs.get("id")]
    assert len(ids) == len(set(ids))
    return page, " ".join("".join(page.text).split())


def panels_of(page: Page, picture: str) -> list[str]:
    ids = [str(attrs.get("id")) for tag, attrs in page.tags if tag == "g"]
    return [found.removeprefix(f"{picture}-") for found in ids if found.startswith(f"{picture}-")]


def test_the_page_shows_how_masks_were_learned() -> None:
    data = learned_report(blocks=3, starts=2)
    page, text = page_of(data)
    assert "each group of 4 learned which 2 of them it keeps" in text
    assert "Begins withthe masks of wanda, strength 3" in text
    assert "temperature 4 → 0.05, scale 100 → 500" in text
    assert "300 of 300, 16 sequences of 512 tokens each: 2,457,600 tokens" in text
    assert "perplexity 42.52 → 24.78 on 32 sequences" in text
    assert "shuffled with seed 7" in text
    assert panels_of(page, "mask-training") == ["loss", "rate", "norm", "speed"]
    assert panels_of(page, "mask-curves") == [
        "changed",
        "certainty",
        "entropy",
        "temperature",
        "scale",
        "changed-blocks",
        "certainty-blocks",
    ]
    assert panels_of(page, "mask-blocks") == ["changed", "certainty"]
    assert "mask learning was started 2 times" in text
    assert any("the same to the bit" in check[0] for check in page.tables["checks-table"][1:])
    assert "Recovery training" not in text
    assert [row[0] for row in page.tables["mask-blocks-table"][1:]] == ["0", "1", "2"]


def test_agreement_is_told_by_kind_of_linear_and_by_block() -> None:
    data = learned_report(blocks=80)
    page, text = page_of(data)
    rows = page.tables["agreement-table"]
    assert rows[0] == ["Linears", "prior", "sparsegpt"]
    assert [row[0] for row in rows[2:]] == [*LINEARS, "all"]
    assert all(len(row) == 1 + 4 for row in rows[2:])
    for i in range(2):
        grid = page.tables[f"agreement-{i}-table"]
        assert len(grid) == 1 + 80
        assert all(len(row) == 1 + len(LINEARS) for row in grid)
    assert "By chance alone it would be 0.1667 of the groups and 0.5000 of the weights" in text
    assert len(render_html(data)) < 450_000


def test_masks_that_were_not_learned_stand_beside_others_too() -> None:
    data = made_report(blocks=2)
    assert "Beside other masks" not in page_of(data)[1]
    page, text = page_of(data.model_copy(update={"agreements": made_overlaps("code", blocks=2)}))
    assert page.tables["agreement-table"][0] == ["Linears", "code"]
    assert "A group is a single weight." in text
    assert "By chance alone" not in text
    assert "Masks learned" not in text


def test_linears_weigh_what_they_have_and_experts_are_one_kind() -> None:
    found = MaskOverlap(
        other="prior",
        linears=(
            LinearOverlap(block=0, linear="self_attn.q_proj", groups=1.0, kept=1.0),
            LinearOverlap(block=0, linear="mlp.experts.0.up_proj", groups=0.2, kept=0.4),
            LinearOverlap(block=0, linear="mlp.experts.1.up_proj", groups=0.4, kept=0.6),
        ),
    )
    other = found.model_copy(update={"other": "mine", "linears": found.linears[:1]})
    attention, experts, every = overlap_rows((found, other), None)
    assert (attention.groups, attention.kept) == ((1.0, 1.0), (1.0, 1.0))
    assert experts.name == "mlp.experts.*.up_proj"
    assert experts.groups == (pytest.approx(0.3), None)
    assert every.groups == (pytest.approx(1.6 / 3), 1.0)
    grid = overlap_map(found)
    assert grid.columns == ("self_attn.q_proj", "mlp.experts.*.up_proj")
    assert [cell and cell[2] for cell in grid.rows[0][1]] == [1.0, 0.0]
    sparsity = made_report(blocks=1).sparsity
    assert sparsity is not None
    weighed = MaskOverlap(
        other="prior",
        linears=tuple(
            LinearOverlap(block=0, linear=linear, groups=float(linear == "mlp.up_proj"), kept=0.5)
            for linear in LINEARS
        ),
    )
    share = LINEARS["mlp.up_proj"] / sum(LINEARS.values())
    assert overlap_rows((weighed,), sparsity)[-1].groups == (pytest.approx(share),)


def test_blocks_may_have_patterns_of_their_own() -> None:
    data = learned_report(blocks=2)
    assert data.plan is not None
    mixed = data.plan.model_copy(update={"blocks": (NM(keep=1, group=4), NM(keep=3, group=4))})
    _, text = page_of(data.model_copy(update={"plan": mixed}))
    assert "as many as its block's pattern says" in text
    assert "By chance alone" not in text


def test_one_block_at_a_time_shows_what_each_came_to() -> None:
    page, text = page_of(learned_report(blocks=5, spec=learned_spec(**BLOCK), others=()))
    assert "the dense block's output" in text
    assert "one block at a time, 4 epochs per block" in text
    assert len(page.tables["mask-fits-table"]) == 1 + 5
    assert "with the masks that it began with" in text
    assert panels_of(page, "mask-curves") == []
    assert panels_of(page, "mask-blocks") == ["changed", "certainty"]
    assert "agreement-table" not in page.tables


def test_distillation_has_a_curve_of_its_own() -> None:
    spec = learned_spec(prior=None, objective={"kind": "distillation"}, weight_reward=1e-5)
    page, text = page_of(learned_report(blocks=2, spec=spec))
    assert panels_of(page, "mask-training")[0] == "minimised"
    assert "less 1e-05 × the squares of masked weights, fading" in text
    assert "Begins withrandom logits" in text


def test_masks_and_recovery_stand_side_by_side() -> None:
    spec = learned_spec().model_copy(update={"recovery": made_recovery()})
    data = learned_report(blocks=3, spec=spec, data=recovered_report(blocks=3, spec=spec))
    page, text = page_of(data)
    headings = [attrs["id"] for tag, attrs in page.tags if tag == "h2"]
    assert headings.index("masks") + 1 == headings.index("recovery")
    assert {"mask-validations-table", "validations-table"} <= set(page.tables)
    assert "Masks learned2.46M tokens" in text
    assert "Training3.28M tokens" in text
    summary = summarise(data)
    assert summary.masks is not None
    assert summary.training is not None
    assert data.seeds == {"calibration": 0, "mask learning": 7, "training": 0}


def test_masks_of_an_earlier_step_are_those_that_are_told() -> None:
    data = learned_report(blocks=2, result_step=150)
    assert data.masks is not None
    assert data.masks.outcome == made_masks(150, made_training(), 2)
    assert "mask learning stopped early: the masks are those after step 150 of 300" in data.notes
    assert "After step 150." in page_of(data)[1]
    chart = mask_chart(data.masks)
    assert chart is not None
    assert [mark.label for mark in chart.marks] == ["result: step 150"]


def test_json_comes_back_as_it_was() -> None:
    data = learned_report(blocks=2)
    document = ReportDocument.model_validate_json(report_json(data))
    assert document.data == data
    assert set(document.summary.agreement) == {"prior", "sparsegpt"}
    summary = document.summary.masks
    assert summary is not None
    assert (summary.steps, summary.tokens) == (STEPS, STEPS * BATCH * LENGTH)
    assert summary.changed == pytest.approx(0.0805, abs=1e-3)
    assert summarise(made_report()).masks is None


@pytest.mark.parametrize("blocks", [1, 2, 80])
def test_pictures_stay_inside_themselves(blocks: int) -> None:
    curve = made_mask_curve(made_training(), blocks=blocks, every=1, result_step=151)
    learned = mask_learning(curve, made_training())
    assert len(learned.training.curve.masks) <= MAX_RECORDS + 1
    assert learned.training.curve.masks[0].step == 0
    assert {151, STEPS} <= {record.step for record in learned.training.curve.masks}
    charts = [mask_chart(learned), mask_block_chart(learned)]
    for chart in charts:
        assert chart is not None
        for panel in chart.panels:
            for line in panel.lines:
                pairs = re.findall(r"([\d.]+) ([\d.]+)", line.path)
                assert all(chart.left <= float(x) <= chart.right for x, _ in pairs)
                assert all(panel.top - 0.01 <= float(y) <= panel.bottom + 0.01 for _, y in pairs)
            area = 0.0
            for cells in panel.cells:
                assert 0 <= cells.heat <= 1
                found = re.findall(r"M([\d.]+) ([\d.]+)h([\d.]+)v([\d.]+)h-[\d.]+z", cells.path)
                assert "".join(cells.path).count("M") == len(found)
                for x, y, width, height in (map(float, cell) for cell in found):
                    assert chart.left - 0.01 <= x <= x + width <= chart.right + 0.01
                    assert panel.top - 0.01 <= y <= y + height <= panel.bottom + 0.02
                    area += width * height
            if panel.cells:  # nothing is left out, nothing drawn twice
                whole = (chart.right - chart.left) * (panel.bottom - panel.top)
                assert area == pytest.approx(whole, rel=0.01)


def test_nothing_recorded_draws_nothing() -> None:
    empty = made_mask_curve(made_training(**BLOCK)).model_copy(update={"masks": (), "blocks": ()})
    learned = mask_learning(empty, made_training(**BLOCK))
    assert (mask_chart(learned), mask_block_chart(learned), learned.result) == (None, None, None)
    data = learned_report(blocks=2, spec=learned_spec(**BLOCK)).model_copy(update={"masks": learned})
    assert "Masks learned" in page_of(data)[1]
    assert summarise(data).masks.changed is None  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("prior", "changes", "recipe"),
    [
        ("wanda", {}, "maskllm from wanda · uniform · 2:4 · 2.46M tokens"),
        (None, {}, "maskllm · uniform · 2:4 · 2.46M tokens"),
        (STORED, {}, "maskllm from stored masks · uniform · 2:4 · 2.46M tokens"),
        (
            "sparsegpt",
            {"objective": {"kind": "distillation"}},
            "maskllm from sparsegpt · uniform · 2:4 · distillation, 2.46M tokens",
        ),
        ("wanda", BLOCK, "maskllm from wanda · uniform · 2:4 · block by block, 2.46M tokens × 4"),
    ],
)
def test_recipe(prior: Any, changes: dict[str, Any], recipe: str) -> None:
    assert summary_line(learned_spec(prior=prior, **changes)) == recipe


def test_the_card_says_that_masks_were_learned_and_weights_were_not() -> None:
    card = card_of(learned_report(blocks=3))
    assert "# SmolLM2-135M, pruned to sparsity 0.5 with learned masks\n" in card
    assert "| Masks learned on | books.txt: 2,457,600 tokens in 300 steps, sequences of 512 |" in card
    assert "| Masks learned towards | language modelling, from the masks of wanda |" in card
    assert "frozen: those that are kept are as they were, to the bit |" in card
    assert "/texts/" not in card
    assert "maskllm" in front_matter(card)["tags"]  # type: ignore[operator]
    assert "\n\n\n" not in card
    assert "Masks learned" not in card_of(made_report())
    side = SideFile.model_validate_json(side_of(learned_report(blocks=3)).to_json())
    assert side.seeds == {"calibration": 0, "mask learning": 7}
    assert json.loads(side.to_json())["spec"]["prune"]["method"]["training"]["text"]["seed"] == 7


def test_the_card_of_masks_with_recovery_does_not_call_weights_unchanged() -> None:
    spec = learned_spec(prior=None, **BLOCK).model_copy(update={"recovery": made_recovery()})
    card = card_of(learned_report(blocks=2, spec=spec, data=recovered_report(blocks=2, spec=spec)))
    assert "| Weights while masks were learned | frozen |" in card
    assert "2,457,600 tokens in 300 steps, 4 times for each block, sequences of 512 |" in card
    assert "| Masks learned towards | the dense block's output, from random logits |" in card
    assert "with learned masks and trained after it" in card
