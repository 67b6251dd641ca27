"""The Triton kernels of learnable masks against the plain one, in Triton's interpreter and on a GPU, if any;
and compiled for GPUs that need not be there."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.errors import SourceUnreachable
from tests.eval_slices import KEPT
from workers.wheels import fetch_wheel

TRITON = "triton==3.7.1"  # what torch 2.13 requires of it
UNUSED = ("cupti/", "ptxas-blackwell", "libproton", "plugins/", "instrumentation/", "FileCheck")

# keep, group, type, rows, columns: less than a block, several, more than a chunk; none of them whole blocks
CASES = [
    (2, 4, "fp32", 6, 20),
    (1, 4, "fp32", 50, 80),
    (2, 4, "fp32", 330, 400),
    (2, 4, "bf16", 50, 80),
    (3, 8, "fp16", 10, 80),
    (4, 8, "fp32", 10, 80),
    (1, 7, "fp32", 20, 70),  # without noise
    (1, 64, "fp32", 5, 320),
]
TOLERANCE = {"fp32": 1e-5, "fp16": 1e-3, "bf16": 2.0**-7}  # the interpreter cuts bfloat16 where GPUs round it
COMPILED = [
    (keep, group, kind, capability)
    for keep, group, kind in ((2, 4, "bf16"), (4, 8, "bf16"), (1, 64, "bf16"))
    for capability in (80, 90)
]


@pytest.fixture(scope="module")
def triton_path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """What to put into PYTHONPATH. Triton stays out of this process: torch and DeepSpeed would find it."""
    if importlib.util.find_spec("triton") is not None:
        yield ""
        return
    try:
        wheel = fetch_wheel(TRITON, KEPT)
    except SourceUnreachable as error:
        pytest.skip(f"{TRITON} cannot be downloaded: {error.message}")
    home = tmp_path_factory.mktemp("triton")
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(
            home, [name for name in packed.namelist() if not any(one in name for one in UNUSED)]
        )
    (home / "triton/backends/nvidia/bin/ptxas").chmod(0o755)
    yield str(home)
    shutil.rmtree(home)


def run(triton_path: str, cache: Path, what: str, device: str, cases: object, **more: str) -> dict[str, Any]:
    """Outcomes of triton_runs.py by case."""
    environment = {**os.environ, "PYTHONPATH": triton_path, "TRITON_CACHE_DIR": str(cache), **more}
    command = [sys.executable, "-m", "tests.pipeline.tensor.triton_runs", what, device, json.dumps(cases)]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=Path(__file__).parents[3], env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def hold(found: dict[str, Any]) -> None:
    assert found.pop("differing bits") == 0
    assert len(found) == len(CASES)
    for (_, _, kind, *_), differences in zip(CASES, found.values(), strict=True):
        assert all(one < TOLERANCE[kind] for one in differences.values()), found


@pytest.mark.slow
def test_kernels_in_the_interpreter_agree_with_the_plain_one(triton_path: str, tmp_path: Path) -> None:
    hold(run(triton_path, tmp_path, "compare", "cpu", CASES, TRITON_INTERPRET="1"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_kernels_on_a_gpu_agree_with_the_plain_one(triton_path: str, tmp_path: Path) -> None:
    hold(run(triton_path, tmp_path, "compare", "cuda", CASES))


@pytest.mark.slow
def test_kernels_compile_for_devices_and_spill_no_registers(triton_path: str, tmp_path: Path) -> None:
    """Logarithms are exact ones: approximate ones are wrong near 1, where noise is largest."""
    found = run(triton_path, tmp_path, "compile", "", COMPILED)
    assert len(found) == len(COMPILED)
    for kernels in found.values():
        for taken in kernels.values():
            assert taken["spilled"] == 0, found
            assert taken["shared"] <= 48 << 10, found
            assert taken["approximate logarithms"] == 0
            assert taken["rounded"] > 0
