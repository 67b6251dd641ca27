"""One dense model for a module, and its shares."""

from pathlib import Path

import pytest

from pipeline.checkpoint.megatron.convert import convert
from tests.pipeline.checkpoint.megatron.made import checkpoint


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint("llama-tied", tmp_path_factory.mktemp("dense") / "model")


@pytest.fixture
def ranks(dense: Path, tmp_path: Path) -> Path:
    """The model shared by two ranks."""
    return convert(dense, tmp_path / "ranks", to="mp_rank", tensor_parallel=2, implementation="local")
