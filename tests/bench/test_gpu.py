"""Every section of bench/gpu.py runs on a CPU, at tiny sizes, without packages that only a cluster has."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
NEED_CUDA = {"kernels", "out of memory"}
ABSENT = (
    "ray",
    "boto3",
    "botocore",
    "fastapi",
    "sqlalchemy",
    "datasets",
    "lm_eval",
    "gguf",
    "mlflow",
    "wandb",
)
BLOCKING = f"""
import runpy, sys

sys.modules |= dict.fromkeys({ABSENT})  # as if they were not installed
sys.path.insert(0, {str(ROOT / "bench")!r})
sys.argv = ["gpu.py", *sys.argv[1:]]
runpy.run_path({str(ROOT / "bench" / "gpu.py")!r}, run_name="__main__")
"""


def run(*arguments: str, program: tuple[str, ...] = ("-c", BLOCKING)) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *program, "--quick", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_section_runs_without_a_gpu_or_is_skipped_because_it_needs_one() -> None:
    ended = run("--device", "cpu", "--budget", "1000000")  # so that no section is ended on a busy machine
    sections = json.loads(ended.stdout.splitlines()[-1])["sections"]
    assert ended.returncode == 0, sections
    assert {name for name, one in sections.items() if "skipped" in one} == NEED_CUDA
    assert not any("failed" in one or "left_out" in one for one in sections.values())
    assert sections["truth"]["wanda"]["alike"] == 1.0
    assert sections["walk"]["blocks"] == 2
    assert sections["reconstruction"]["steps"] > 0
    assert sections["training"]["zero 3 with a teacher"]["zeros"] > 0
    printed = [line.partition(":")[0] for line in ended.stdout.splitlines()[:-1] if ": {" in line]
    assert set(sections) <= set(printed)


@pytest.mark.slow
def test_sections_without_time_are_left_out() -> None:
    late = run("--device", "cpu", "--budget", "1", "--only", "rates")
    assert late.returncode == 0
    assert "left_out" in json.loads(late.stdout.splitlines()[-1])["sections"]["rates"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, so that the section runs")
def test_a_section_that_fails_is_named_and_the_exit_code_tells() -> None:
    program = (str(ROOT / "bench" / "gpu.py"),)
    elsewhere = run("--budget", "1000000", "--only", "rates", program=program)
    found = json.loads(elsewhere.stdout.splitlines()[-1])["sections"]["rates"]
    assert elsewhere.returncode == 1
    assert "torch sees no CUDA device" in str(found["failed"])
