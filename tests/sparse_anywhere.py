"""Linears become sparse on any CPU, also on one without vector instructions, where torch's are faster."""

import pytest

from secateur.sparse import worth


@pytest.fixture
def sparse_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worth, "MOST_DENSITY", {**worth.MOST_DENSITY, "plain": 0.8})
