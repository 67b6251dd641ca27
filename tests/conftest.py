"""Fixtures for all tests, their order, and the way in which they are distributed over processes."""

from collections.abc import Iterator

import hypothesis
import pytest
import torch
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from tests import needs

pytest_plugins = [
    "tests.servers",
    "tests.eval_slices",
    "tests.browser",
    "tests.in_this_process",
    "tests.sparse_anywhere",
    "tests.opened_here",
]

RAY = ("tests/e2e/", "tests/api/test_real_ray.py", "tests/api/test_embedded.py")
APART = "tests/e2e/test_node_loss.py"  # it takes long, and starts its own nodes

torch.set_num_threads(1)  # two processes with two threads each would wait for each other on two cores

# A busy machine must not fail a test, nor an unlucky draw. To look for counterexamples with other draws:
# pytest --hypothesis-profile=searching
hypothesis.settings.register_profile("searching", deadline=None)
hypothesis.settings.register_profile("steady", deadline=None, derandomize=True)
hypothesis.settings.load_profile("steady")

JOB_SECONDS = 3600  # when a test of whole jobs hangs; `--timeout` in pyproject.toml is for the others


class FilesAndRay(LoadScopeScheduling):
    """Keeps each file in one process, so that module fixtures are made once, and all files that need a Ray in
    one process, so that it is started once. APART runs elsewhere, because it would delay that process."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "ray" if nodeid.startswith(RAY) and file != APART else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """Distribute tests by FilesAndRay."""
    return FilesAndRay(config, log)


@pytest.hookimpl(tryfirst=True)  # before `-m` selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Add markers, and sort: tests that need a Ray come first, then files with slow tests, so that no process
    is left alone with a long file at the end."""
    needs.mark(items)
    for item in items:
        if item.get_closest_marker("e2e") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(JOB_SECONDS))
    long = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (not item.nodeid.startswith(RAY), item.path not in long))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Note the test that runs next, and seed torch, so that a test draws the same numbers in any order."""
    needs.begin(item)
    torch.manual_seed(0)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Limit torch to one thread while the test runs."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def no_gradients() -> Iterator[None]:
    """Run the test without gradients."""
    with torch.no_grad():
        yield
