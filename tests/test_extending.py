"""Tests that additions need as few edits by hand as the documentation promises, and that they work.

A new kind of addition is an entry in `extending/additions.py` and its proof in `extending/proofs.py`.
"""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.canonical import sha256_hex
from tests.extending.additions import ROOT, Addition, additions

FOLDERS = ("secateur", "pipeline", "workers", "api", "tests", "docs", "deploy")
ADDITIONS = additions()


@dataclass(frozen=True)
class Extended:
    """A copy of the packages with all additions. `touched` has the changed files by name of the addition."""

    tree: Path
    touched: dict[str, list[str]]

    def run(self, *command: str) -> None:
        """Run a Python module in the copy."""
        environment = {**os.environ, "PYTHONPATH": str(self.tree), "OMP_NUM_THREADS": "1"}
        ended = subprocess.run(
            [sys.executable, "-m", *command],
            cwd=self.tree,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Extended:
    """The copy with all additions, made once."""
    tree = tmp_path_factory.mktemp("house")
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, tree / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tree)
    touched = {}
    for addition in ADDITIONS:
        before = contents(tree)
        addition.carry_out(tree)
        after = contents(tree)
        touched[addition.name] = sorted(path for path in after if before.get(path) != after[path])
    return Extended(tree, touched)


def contents(tree: Path) -> dict[str, str]:
    """The digest of each file by its path."""
    files = [path for path in tree.rglob("*") if path.is_file()]
    return {str(path.relative_to(tree)): sha256_hex(path.read_bytes()) for path in files}


@pytest.mark.parametrize("addition", ADDITIONS, ids=lambda addition: addition.name)
def test_so_many_files_are_edited_by_hand(addition: Addition, extended: Extended) -> None:
    assert len(extended.touched[addition.name]) == addition.files, extended.touched[addition.name]


@pytest.mark.slow
def test_what_was_added_works(extended: Extended) -> None:
    contracts = (f"tests/pipeline/{name}/test_{name}.py" for name in ("methods", "allocations"))
    chosen = "proofs or mine or tilted"  # the tests of the additions, contract tests included
    extended.run(
        "pytest", "-q", "-p", "no:cacheprovider", "tests/extending/proofs.py", *contracts, "-k", chosen
    )


@pytest.mark.slow
def test_what_was_added_is_typed(extended: Extended) -> None:
    new = [path for addition in ADDITIONS for path in addition.new if path.endswith(".py")]
    packages = sorted({str(Path(path).parent) for path in new})
    extended.run("mypy", "--strict", "--cache-dir", os.devnull, *packages)
