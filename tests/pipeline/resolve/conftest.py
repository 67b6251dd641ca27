"""A place with a tiny Llama for the tests of this folder."""

from pathlib import Path

import pytest

from tests.models import tiny_checkpoint
from tests.pipeline.resolve.place import Place


@pytest.fixture
def place(tmp_path: Path) -> Place:
    tiny_checkpoint("llama", tmp_path / "model")
    return Place(tmp_path)
