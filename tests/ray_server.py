"""One local Ray for all tests of a session, started when the first test asks for it."""

from collections.abc import Iterator

import pytest

from api.embedded import EmbeddedRay
from tests.needs import needed


@pytest.fixture(scope="session")
def embedded_ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRay]:
    """A running Ray head; `endpoint()` returns its address and token."""
    needed("ray")
    ray = EmbeddedRay(tmp_path_factory.mktemp("ray"))
    ray.ensure()
    try:
        yield ray
    finally:
        ray.stop()
