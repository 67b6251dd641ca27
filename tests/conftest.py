"""Fixtures that every suite may ask for, and how the suite is shared out over processes."""

from collections.abc import Iterator

import hypothesis
import pytest
import torch
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from tests import needs

pytest_plugins = [
    "tests.servers",
    "tests.ray_server",
    "tests.eval_slices",
    "tests.browser",
    "tests.in_this_process",
]

RAY = ("tests/e2e/", "tests/api/test_real_ray.py", "tests/api/test_embedded.py")
APART = "tests/e2e/test_node_loss.py"  # long, and its nodes are its own

torch.set_num_threads(1)  # two processes with two threads each wait for one another on two cores

hypothesis.settings.register_profile("unhurried", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("unhurried")


class FilesAndRay(LoadScopeScheduling):
    """Files stay whole, so that module fixtures are made once; what needs a Ray stays in one process, where
    it is started once, but for what would keep that process busy long after the other."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "ray" if nodeid.startswith(RAY) and file != APART else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """Share out by the rule above."""
    return FilesAndRay(config, log)


@pytest.hookimpl(tryfirst=True)  # before `-m` selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put markers on. What needs a Ray comes first, then the files with slow tests, so that no process is
    left alone with a long file at the end."""
    needs.mark(items)
    long = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (not item.nodeid.startswith(RAY), item.path not in long))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Note which test asks for fixtures next, and let torch draw the same numbers whenever it runs."""
    needs.begin(item)
    torch.manual_seed(0)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Torch computes with one thread while the test runs."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def no_gradients() -> Iterator[None]:
    """Torch keeps nothing for a backward pass."""
    with torch.no_grad():
        yield
