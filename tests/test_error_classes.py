"""Every error belongs to one class, and the docs say to which."""

import re
from pathlib import Path
from typing import get_args

import pytest

import pipeline.evaluation.contracts  # noqa: F401 - it adds a class to the tree
from pipeline.errors import Blame, InvalidRequest, SecateurError, StorageError, every_error

PAGE = Path(__file__).parents[1] / "docs" / "errors.md"
OURS = tuple(kind for kind in every_error() if kind.__module__.partition(".")[0] != "tests")


@pytest.mark.parametrize("kind", OURS, ids=lambda kind: kind.__name__)
def test_every_error_has_one_class_and_only_the_machines_are_tried_again(kind: type[SecateurError]) -> None:
    assert kind.blame in get_args(Blame)
    assert not kind.retryable or kind.blame == "machine"
    if not issubclass(kind, (InvalidRequest, StorageError)) and kind.__subclasses__() == []:
        assert "blame" in vars(kind), f"{kind.__name__} must say whose failure it is"


def test_the_docs_list_every_code_with_its_class() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (yes|no) \|", PAGE.read_text(), re.MULTILINE)
    assert {code: (blame, again) for code, blame, again in rows} == {
        kind.code: (kind.blame, "yes" if kind.retryable else "no") for kind in OURS
    }
    assert len(rows) == len({code for code, _, _ in rows})
