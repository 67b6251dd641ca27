"""The dispatcher and the scheduler, each in a scene that moves only when the test says so."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from api.settings import Settings
from pipeline.storage import S3Options
from tests.api import scheduling
from tests.api.background import dispatching
from tests.api.background.dispatching import FakeRay
from tests.api.conftest import running
from tests.models import tiny_checkpoint, tiny_text


@pytest.fixture
def scene(database_url: str, make_settings: Callable[..., Settings]) -> Iterator[dispatching.Scene]:
    """A scene with one job at a time."""
    settings = make_settings(
        database_url=database_url, max_running_jobs=1, s3=S3Options(access_key="y", secret_key="x")
    )
    with running(settings) as api:
        yield dispatching.Scene(api, FakeRay(), settings)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two checkpoints, one in shards, and a text."""
    root = tmp_path_factory.mktemp("models")
    tiny_checkpoint("llama", root / "sharded", max_shard_size="100KB")
    tiny_checkpoint("llama", root / "whole", seed=1)
    tiny_text(root)
    return root


@pytest.fixture
def night(
    database_url: str, make_settings: Callable[..., Settings], models: Path, tmp_path: Path
) -> Iterator[scheduling.Scene]:
    """A scene; checkpoints may also arrive below `tmp_path/arrivals`."""
    roots = (models, tmp_path / "arrivals")
    with scheduling.scene(make_settings(database_url=database_url, allowed_roots=roots), models) as made:
        yield made
