"""Opens published models within the test's process, because a process of their own imports for seconds."""

from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

from workers.stages import verify
from workers.verification.answer import Answer, Opening
from workers.verification.opening import answer_to


@pytest.fixture
def opened_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the fresh process of `verify` by a call of its function. `tests/workers/test_verify.py` starts
    the real one."""
    monkeypatch.setattr(verify, "OpeningProcess", OpeningHere)


@pytest.fixture(scope="module")
def all_opened_here() -> Iterator[None]:
    """`opened_here` for a whole file: for its module's fixtures too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verify, "OpeningProcess", OpeningHere)
        yield


class OpeningHere:
    """See OpeningProcess."""

    def __init__(self, aside: Path, *, threads: int) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing has been started."""

    def open(self, opening: Opening) -> Answer:
        """Opens the model here."""
        return answer_to(opening)
