"""Tests that every path of the repository and every relative link in the documentation exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("api", "bench", "deploy", "docs", "examples", "pipeline", "secateur", "tests", "workers")
PAGES = sorted(
    [
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "deploy/helm/README.md")),
        *(ROOT / "docs").rglob("*.md"),
    ]
)
PATH = re.compile(rf"(?<![\w./:<-])(?:{'|'.join(FOLDERS)})/[\w./-]*")
MODULE = re.compile(r"python -m ((?:api|pipeline|secateur|tests|workers)[\w.]*)")
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
PLACEHOLDER = "mine"  # the name of files that a reader is asked to write


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_names_exists(page: Path) -> None:
    text = page.read_text()
    assert [path for path in paths_in(text) if not (ROOT / path).exists()] == []
    assert [link for link in links_in(text) if not leads_somewhere(page, link)] == []


def test_what_does_not_exist_is_noticed() -> None:
    text = "`pipeline/nothing.py`, `python -m workers.nothing`, `pipeline/dag/plan.py` and [x](nothing.md#y)"
    assert paths_in(text) == ["pipeline/nothing.py", "pipeline/dag/plan.py", "workers/nothing.py"]
    assert [(ROOT / path).exists() for path in paths_in(text)] == [False, True, False]
    assert links_in(text) == ["nothing.md#y"]
    assert not leads_somewhere(ROOT / "README.md", "nothing.md#y")
    assert not leads_somewhere(ROOT / "README.md", "CONTRIBUTING.md#nothing-of-this-name")
    assert leads_somewhere(ROOT / "docs" / "spec.md", "../README.md#every-night")


def paths_in(text: str) -> list[str]:
    """The paths that begin with a folder of the repository, and the files of modules that are run."""
    paths = [path.rstrip(".") for path in PATH.findall(text)]
    modules = [module.replace(".", "/") + ".py" for module in MODULE.findall(text)]
    return [path for path in (*paths, *modules) if Path(path).stem != PLACEHOLDER]


def links_in(text: str) -> list[str]:
    """The targets of links that stay within the repository."""
    return [target for target in LINK.findall(text) if "://" not in target]


def leads_somewhere(page: Path, link: str) -> bool:
    """Tells whether the file of a link exists, and has the heading that the link names."""
    name, _, anchor = link.partition("#")
    target = page.parent / name if name else page
    if not anchor:
        return target.exists()
    return target.is_file() and anchor in {
        anchor_of(heading) for heading in HEADING.findall(target.read_text())
    }


def anchor_of(heading: str) -> str:
    """The anchor of a heading, by which links point at it."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
