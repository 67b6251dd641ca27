"""Tests of the NEON kernels on a machine of another architecture: cross-compiled, and run by an emulator."""

import shutil
import subprocess
from pathlib import Path

import pytest

from secateur.sparse import building
from tests.sparse.test_sanitized import DRIVER

CROSS, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"
PACKAGES = {CROSS: "g++-aarch64-linux-gnu", EMULATOR: "qemu-user"}


@pytest.mark.slow
def test_neon_kernels_give_the_products_of_the_dense_weight(tmp_path: Path) -> None:
    missing = [package for program, package in PACKAGES.items() if shutil.which(program) is None]
    if missing:
        pytest.skip(f"needs the Debian packages {' and '.join(missing)}")
    building.build(CROSS, tmp_path, extra=("-O1",), link=("-fopenmp",), files=building.files_for("aarch64"))
    program = tmp_path / "driver"
    objects = [str(made) for made in tmp_path.glob("*.o")]
    subprocess.run(
        [
            *(CROSS, "-std=c++17", "-O1", "-static", f"-I{building.SOURCES}", "-fopenmp", "-pthread"),
            *(str(DRIVER), *objects, "-o", str(program)),
        ],
        check=True,
    )
    ended = subprocess.run([EMULATOR, str(program)], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr[-3000:]
    sets, kinds, ways = 2, 3, 2  # plain and neon; the others are those of driver.cpp
    shapes_by_form = 6 + 6 + 2  # bits, dense, codes
    assert ended.stdout == f"{sets * kinds * ways * shapes_by_form} products\n"
