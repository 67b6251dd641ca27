import pytest


@pytest.fixture(autouse=True)
def everywhere(sparse_anywhere: None) -> None:
    """All tests of this folder expect sparse linears."""
