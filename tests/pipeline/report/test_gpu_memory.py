"""The report has a stage's peak of GPU memory beside the name of the GPU; stages on CPUs have neither."""

from pipeline.artifacts.refs import CheckpointRef
from pipeline.blocks.crew import CrewUse, together
from pipeline.job.ledger import Measured
from pipeline.report.page import render_html
from tests.pipeline.report.made_report import made_report
from workers.turns import made_by

ON_CPU = CrewUse(3000, 1000, 0, 8, 4, "cpu")
ON_GPU = CrewUse(3000, 1000, 0, 8, 4, "NVIDIA H200", gpu_bytes=3 * 2**30)


def test_the_worker_that_needed_most_counts() -> None:
    other = CrewUse(4000, 1000, 0, 8, 4, "NVIDIA H200", gpu_bytes=2**30)
    both = together([ON_GPU, other])
    assert (both.gpu_bytes, both.peak_bytes, both.device) == (3 * 2**30, 4000, "NVIDIA H200")


def test_the_page_names_the_gpu_beside_its_peak() -> None:
    made = made_by(ON_GPU, {"checkpoint": CheckpointRef(files=())})
    measured = Measured(seconds=2, details=dict(made.details), device=made.device)
    report = made_report()
    first, *others = report.stages
    stages = (first.model_copy(update={"measured": measured}), *others)
    html = render_html(report.model_copy(update={"stages": stages}))
    assert "NVIDIA H200: gpu memory 3.0 GiB" in html


def test_a_stage_on_cpus_is_stored_as_before() -> None:
    made = made_by(ON_CPU, {})
    assert made.device is None
    assert "gpu_memory_bytes" not in made.details
    assert "device" not in Measured(seconds=1, device=made.device).model_dump(mode="json")
