"""Tests that markers follow from fixtures: a test that starts no server, no Ray and no browser is quick."""

from types import SimpleNamespace
from typing import Any

import pytest

from tests import needs


class Item(SimpleNamespace):
    """The part of a pytest.Item that markers need."""

    def __init__(self, *markers: str, fixtures: tuple[str, ...] = ()) -> None:
        super().__init__(fixturenames=fixtures, markers=list(markers))

    def get_closest_marker(self, name: str) -> str | None:
        return name if name in self.markers else None

    def add_marker(self, name: str) -> None:
        self.markers.append(name)


@pytest.mark.parametrize(
    ("written", "fixtures", "markers"),
    [
        ((), ("tmp_path",), {"quick"}),
        (("golden",), (), {"golden", "quick"}),
        (("slow",), (), {"slow"}),
        ((), ("postgres_url",), {"servers"}),
        ((), ("chromium", "site", "tmp_path"), {"browser", "servers"}),
        (("e2e",), ("local_service",), {"e2e", "ray", "servers"}),
    ],
)
def test_markers_follow_from_the_fixtures(
    written: tuple[str, ...], fixtures: tuple[str, ...], markers: set[str]
) -> None:
    item: Any = Item(*written, fixtures=fixtures)
    needs.mark([item])
    assert set(item.markers) == markers


def test_every_test_is_quick_or_says_what_it_needs(request: pytest.FixtureRequest) -> None:
    for item in request.session.items:
        assert any(item.get_closest_marker(name) for name in ("quick", *needs.NOT_QUICK)), item.nodeid


@pytest.mark.parametrize("marker", needs.FIXTURES)
def test_a_test_without_the_marker_starts_nothing(marker: str) -> None:
    with pytest.raises(pytest.fail.Exception, match=rf"@pytest\.mark\.{marker}"):
        needs.needed(marker)


@pytest.mark.servers
def test_a_test_with_the_marker_may_start_it() -> None:
    needs.needed("servers")
