"""Fixtures that every suite may ask for, and how the suite is shared out over processes."""

import pytest

pytest_plugins = ["tests.servers", "tests.ray_server", "tests.eval_slices", "tests.browser"]

RAY = ("tests/e2e/", "tests/workers/", "tests/api/test_real_ray.py", "tests/api/test_embedded.py")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files stay whole, so that module fixtures are made once. What needs a Ray runs in one process, first:
    it takes longest, waits much, and two of them at a time would only take turns on the cores."""
    items.sort(key=lambda item: not item.nodeid.startswith(RAY))
    for item in items:
        group = "ray" if item.nodeid.startswith(RAY) else item.nodeid.partition("::")[0]
        item.add_marker(pytest.mark.xdist_group(group))
