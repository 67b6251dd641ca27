"""Pictures and numbers of the report: bars, ticks, heatmaps, quantities."""

import pytest

from pipeline.artifacts.sparsity import BlockExperts, ExpertTable, LinearSparsity, SparsityTable
from pipeline.report.data import ReportDocument, report_json
from pipeline.report.drawing.block_chart import block_chart, block_sparsity, nice_ticks
from pipeline.report.page import render_html
from pipeline.report.quantity import human_bytes, human_figure, human_perplexity, human_seconds
from pipeline.report.sections.linears import heatmap
from tests.pipeline.report.made_report import made_report


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
