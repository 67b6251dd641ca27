"""Tests that no Python file is longer than the house allows; no linter looks at that."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("api", "bench", "pipeline", "secateur", "tests", "workers")
MOST_LINES = 300


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_file_is_too_long(folder: str) -> None:
    assert list((ROOT / folder).rglob("*.py")), f"{folder} has no Python files; correct FOLDERS"
    assert too_long(ROOT / folder) == {}, f"split them by theme: a file has at most {MOST_LINES} lines"


def test_one_line_too_many_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "full.py").write_text("pass\n" * MOST_LINES)
    (tmp_path / "below" / "over.py").write_text("pass\n" * (MOST_LINES + 1))
    assert too_long(tmp_path) == {"below/over.py": MOST_LINES + 1}


def too_long(directory: Path) -> dict[str, int]:
    """The lines of each Python file below `directory` that has more than MOST_LINES, by its relative path."""
    lines = {
        path.relative_to(directory).as_posix(): len(path.read_text(encoding="utf-8").splitlines())
        for path in sorted(directory.rglob("*.py"))
    }
    return {path: count for path, count in lines.items() if count > MOST_LINES}
