"""Experts chosen by what they give, through the stages of a job, and in its report."""

from pathlib import Path

import pytest
from safetensors.torch import load
from transformers import AutoModelForCausalLM

from pipeline.artifacts.refs import CheckpointRef, CutRef, SamplesRef
from pipeline.blocks.local import LocalCrew
from pipeline.blocks.measuring import measure_statistics
from pipeline.blocks.steps import run_through
from pipeline.dag.stages.pruning import MeasureStatistics
from pipeline.report.data import ReportData
from pipeline.report.page import render_html
from pipeline.report.summary import summary_line
from pipeline.structure.cut import Cut
from pipeline.structure.expert_table import ExpertGainTable
from tests.exported import export
from tests.models import PARAGRAPH, tiny_checkpoint
from tests.pipeline.report.made_report import made_report
from tests.workers.stage_runs import stage_runs

pytestmark = pytest.mark.usefixtures("one_thread", "no_gradients")


def test_a_job_merges_experts_and_reports_what_each_gave(tmp_path: Path) -> None:
    model = tiny_checkpoint("qwen3_moe", tmp_path / "model")
    text = tmp_path / "text.txt"
    text.write_text(PARAGRAPH * 4)
    structure = {"num_experts": 2, "experts": {"criterion": {"kind": "reap"}, "others": "merged"}}
    parts = {
        "structure": structure,
        "calibration": {"source": f"file:{text}", "samples": 4, "sequence_length": 32, "documents": "file"},
    }
    job = stage_runs(tmp_path, model=model, parts=parts)
    job.run("import_model", "calibrate")
    content, samples = job.settings.content(), job.made["calibrate"]["samples"]
    assert isinstance(samples, SamplesRef)
    tokens = load(job.file("calibrate", "samples", SamplesRef.TOKENS))["tokens"]
    dense, sweep = job.made["import_model"]["checkpoint"], job.dag["measure_structure"].stage
    assert isinstance(dense, CheckpointRef)
    assert isinstance(sweep, MeasureStatistics)
    crew = LocalCrew(content, dense, [*tokens], workers=2)
    measured = run_through(measure_statistics(crew, frozenset(sweep.needs), samples=len(tokens)))
    job.made["measure_structure"] = {"statistics": measured}
    made = job.run("slice").made["slice"]
    checkpoint, ref = made["checkpoint"], made["cut"]
    assert isinstance(checkpoint, CheckpointRef)
    assert isinstance(ref, CutRef)
    smaller = AutoModelForCausalLM.from_pretrained(export(content, checkpoint, tmp_path / "cut"))
    assert smaller.config.num_local_experts == 2
    cut, table = ref.load(content, Cut), ref.load(content, ExpertGainTable)
    assert [block.kept for block in table.blocks] == [block.experts for block in cut.blocks]
    assert all(sum(block.tokens) == 2 * 4 * 32 for block in table.blocks)  # two experts for every token
    assert any(block.merged for block in cut.blocks)
    assert "experts by reap, others merged" in summary_line(job.order.request.spec)

    data: ReportData = made_report().model_copy(update={"expert_gains": table})
    page = render_html(data)
    assert 'id="expert-gains-table"' in page
    assert page.count("stays") >= 4
    assert ReportData.model_validate_json(data.model_dump_json()).expert_gains == table
    assert 'id="expert-gains"' not in render_html(made_report())
