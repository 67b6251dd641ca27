"""Sweeps: their members, the work that they share, and the page that compares them."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.dag.plan import plan
from pipeline.dag.stages.pruning import MeasureStatistics
from pipeline.dag.stages.results import ReportSweep
from pipeline.errors import InvalidSpec
from pipeline.evaluation.comparison import compare
from pipeline.report.page import render_sweep
from pipeline.report.sections.members import SweepMember, best_of, sweep_chart
from pipeline.report.summary import summary_line, titles_of
from pipeline.report.sweep import SweepData, SweepDocument, read_any_report, sweep_json
from pipeline.request.prune_spec import PruneSpec
from pipeline.resolve.model_checks import check_against_model
from pipeline.sources.pins import ModelFacts
from pipeline.spec.patterns import NM
from tests.made_pins import made_pins
from tests.pipeline.report.made_report import made_evaluation, made_report
from tests.pipeline.report.pages import Page

TEXT = {"source": "file:/t/text.txt", "sequence_length": 32}
OWL = {"kind": "owl", "multiplier": 5, "spread": 0.08}
TWO_OF_FOUR = {"kind": "nm", "keep": 2, "group": 4}
HALF = {"kind": "unstructured", "sparsity": 0.5}
FACTS = ModelFacts(model_type="llama", blocks=2, max_positions=512)


def spec(sweep: dict[str, Any], **changes: Any) -> PruneSpec:
    return PruneSpec.model_validate(
        {
            "model": {"source": "file:/m/llama"},
            "calibration": {**TEXT, "samples": 4},
            "prune": {"method": {"kind": "wanda"}, "pattern": HALF, "propagation": "dense"},
            "evaluation": {"perplexity": [TEXT]},
            "sweep": sweep,
            **changes,
        }
    )


def test_members_are_all_combinations() -> None:
    swept = spec(
        {
            "methods": [{"kind": "wanda"}, {"kind": "sparsegpt"}],
            "allocations": [{"kind": "uniform"}, OWL],
            "patterns": [HALF, TWO_OF_FOUR],
            "sparsities": [0.5, 0.7],
        }
    )
    found = [one.prune for one in swept.members]
    assert len(found) == len({str(one) for one in found}) == 2 * 2 * 3
    assert sum(isinstance(one.pattern, NM) for one in found if one is not None) == 4
    assert all(one is not None and one.propagation == "dense" for one in found)
    assert summary_line(swept) == (
        "sweep of 12 · wanda, sparsegpt · uniform, owl · unstructured 0.5, unstructured 0.7, 2:4"
    )
    assert PruneSpec.model_validate_json(swept.model_dump_json()) == swept


def test_titles_tell_members_apart() -> None:
    wider = {**OWL, "spread": 0.15}
    composed = [
        {"kind": "composed", "mask_from": {"kind": kind}, "update": {"kind": "admm"}}
        for kind in ("wanda", "ria")
    ]
    titles = titles_of(spec({"methods": composed, "allocations": [OWL, wider]}))
    assert titles[0] == "composed mask_from=wanda · owl spread=0.08 · unstructured 0.5"
    assert titles[3] == "composed mask_from=ria · owl spread=0.15 · unstructured 0.5"
    assert len(set(titles)) == 4


@pytest.mark.parametrize(
    ("sweep", "changes", "words"),
    [
        ({}, {}, "nothing is varied"),
        ({"sparsities": [0.5, 0.5]}, {}, "sparsities names 0.5 twice"),
        ({"sparsities": [1.0]}, {}, "less than 1"),
        ({"sparsities": [0.5], "patterns": [TWO_OF_FOUR]}, {}, "there is none"),
        ({"sparsities": [i / 100 for i in range(64)], "allocations": [OWL, {"kind": "dlp"}]}, {}, "128"),
        ({"sparsities": [0.4]}, {"evaluation": {}}, "name a text under evaluation.perplexity"),
        ({"sparsities": [0.4]}, {"recovery": {"text": TEXT, "steps": 50}}, "leave recovery out"),
        (
            {"methods": [{"kind": "magnitude"}, {"kind": "ria"}]},
            {
                "calibration": None,
                "prune": {"method": {"kind": "magnitude"}, "pattern": HALF},
            },
            "member 2 of the sweep: Value error, calibration is missing",
        ),
    ],
)
def test_what_is_no_sweep_is_refused(sweep: dict[str, Any], changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        spec(sweep, **changes)


def test_every_member_is_checked_against_the_model() -> None:
    variant = {"kind": "wanda", "variant": True}
    check_against_model(spec({"methods": [variant, {"kind": "wanda"}]}), FACTS)
    with pytest.raises(InvalidSpec, match="variant"):
        check_against_model(spec({"methods": [variant], "patterns": [HALF, TWO_OF_FOUR]}), FACTS)


def test_members_share_what_does_not_depend_on_where_they_differ() -> None:
    swept = spec(
        {
            "methods": [{"kind": "wanda"}, {"kind": "sparsegpt"}],
            "allocations": [{"kind": "uniform"}, OWL],
            "sparsities": [0.5, 0.6, 0.7],
        }
    )
    dag = plan(swept, made_pins(swept, facts=FACTS))
    kinds = [node.stage.kind for node in dag.nodes]
    assert {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)} == {
        "import_model": 1,
        "calibrate": 1,
        "evaluate": 1 + 12,
        "measure_statistics": 1,
        "allocate": 6,  # methods share plans
        "prune": 12,
        "measure_blocks": 1,
        "report_sweep": 1,
    }
    ids = [node.id for node in dag.nodes]
    assert len(set(ids)) == len(ids)
    done: set[str] = set()
    for node in dag.nodes:
        assert node.needs <= done
        done.add(node.id)
    statistics = dag["measure_statistics"].stage
    assert isinstance(statistics, MeasureStatistics)
    assert statistics.needs == ("hessian", "input_norm")
    report = dag["report"]
    assert isinstance(report.stage, ReportSweep)
    assert {f"{name}@{i}" for name in ("plan", "keep", "pruned") for i in range(1, 13)} | {
        "dense"
    } == report.inputs.keys()
    assert report.inputs["keep@12"].node == "prune@12"
    assert report.inputs["plan@3"].node == "allocate@1"


def test_a_member_prunes_as_a_job_of_its_own_would() -> None:
    swept = spec({"sparsities": [0.4, 0.6]})
    alone = plan(swept.members[1], made_pins(swept, facts=FACTS))["prune"].stage
    assert plan(swept, made_pins(swept, facts=FACTS))["prune@2"].stage == alone


@given(st.lists(st.tuples(st.sampled_from([0.5, 0.6, 0.7]), st.sampled_from([10.0, 20.0, 30.0])), min_size=1))
def test_nothing_beats_the_best(points: list[tuple[float, float]]) -> None:
    best = best_of(points)
    kept = [point for point, one in zip(points, best, strict=True) if one]
    for sparsity, perplexity in points:
        assert any(x >= sparsity and y <= perplexity for x, y in kept)
    for x, y in kept:
        assert not any(s >= x and p <= y and (s > x or p < y) for s, p in points)


def made_sweep() -> SweepDocument:
    swept = spec({"sparsities": [0.5, 0.6], "allocations": [{"kind": "uniform"}, OWL]})
    report = made_report()
    dense = report.dense
    figures = [41.0, 43.0, 120.0, 90.0]
    perplexities = [made_evaluation("ab" * 32, loss=math.log(figure)) for figure in figures]
    points = list(zip([0.5, 0.5, 0.6, 0.6], figures, strict=True))
    members = tuple(
        SweepMember(
            number=i,
            title=title,
            prune=one.prune,
            sparsity=one.prune.pattern.target,
            perplexity=compare(dense, judged),
            seconds=2.5,
            checkpoint="ab" * 32,
            notes=("a note",) if i == 2 else (),
            best=best,
        )
        for i, (one, title, judged, best) in enumerate(
            zip(swept.members, titles_of(swept), perplexities, best_of(points), strict=True), start=1
        )
        if one.prune is not None
    )
    data = SweepData(
        model_name="llama",
        job="job-1",
        spec=swept,
        pins=made_pins(swept),
        members=members,
        stages=report.stages,
        environment=report.environment,
        declared_memory_bytes=2**30,
    )
    return SweepDocument(recipe=summary_line(swept), data=data)


def test_the_page_has_a_row_for_every_member() -> None:
    document = made_sweep()
    page = Page(render_sweep(document))
    head, dense, *rows = page.tables["members-table"]
    assert head[:3] == ["#", "Member", "Sparsity"]
    assert dense[1] == "dense"
    assert [row[0] for row in rows] == ["1", "2", "3", "4"]
    assert [row[3] for row in rows] == ["41.00", "43.00", "120.00", "90.00"]
    classes = [attributes.get("class") for tag, attributes in page.tags if tag == "circle"]
    assert sorted(str(one) for one in classes) == ["beaten", "beaten", "best", "best"]
    assert sum(attributes.get("class") == "best" for tag, attributes in page.tags if tag == "tr") == 2
    assert "Peak memory of 1.0 GiB" in page.tables["stages-table"][0][3]
    assert "a note" in " ".join(page.text)


def test_the_picture_lies_within_its_frame() -> None:
    chart = sweep_chart(made_sweep().data.members)
    (panel,) = chart.panels
    for dot in panel.dots:
        assert chart.left <= dot.x <= chart.right
        assert panel.top <= dot.y <= panel.bottom
    assert panel.reference is not None
    assert panel.top <= panel.reference.at <= panel.bottom
    assert "2 of them beaten by none" in chart.description


def test_figures_come_back_from_their_json() -> None:
    document = made_sweep()
    assert read_any_report(sweep_json(document)) == document
