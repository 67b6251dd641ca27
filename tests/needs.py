"""Marks tests as quick that start no server, no Ray and no browser, and are not marked `slow`.

A test that asks for one of the fixtures below, directly or through others, gets the fixture's marker. Code
that starts a server calls `needed`, which fails a test without the marker. So a new fixture that is missing
below is noticed at once, and so is a fixture that a test asks for while it runs.
"""

import pytest

FIXTURES = {
    "servers": {
        *("seaweedfs_server", "rclone_server", "postgres_url"),
        *("api", "sqlite_api", "shared_api", "site", "web"),
        *("local_service", "cloud_service"),
    },
    "ray": {"embedded_ray", "local_service", "cloud_service"},
    "browser": {"chromium"},
}
NOT_QUICK = (*FIXTURES, "e2e", "slow")

_running: list[pytest.Item] = []


def mark(items: list[pytest.Item]) -> None:
    """Put each marker on the tests that ask for one of its fixtures, and `quick` on tests without any."""
    for item in items:
        asked = set(getattr(item, "fixturenames", ()))
        for marker, fixtures in FIXTURES.items():
            if asked & fixtures:
                item.add_marker(marker)
        if not any(item.get_closest_marker(marker) for marker in NOT_QUICK):
            item.add_marker("quick")


def begin(item: pytest.Item) -> None:
    """Note the test that runs next."""
    _running[:] = [item]


def needed(marker: str) -> None:
    """Fail the running test if it lacks a marker."""
    if _running and _running[0].get_closest_marker(marker) is None:
        pytest.fail(
            f"this test needs {marker}, and has no marker that says so: write @pytest.mark.{marker} at it, "
            "or name the shared fixture that it asks for in tests/needs.py",
            pytrace=False,
        )
