"""Tests of the native library under sanitizers, and of its building by two processes at once."""

import concurrent.futures
import shutil
import subprocess
from pathlib import Path

import pytest

from secateur.sparse import building

DRIVER = Path(__file__).parent / "driver.cpp"
COMPILER = next(filter(None, map(shutil.which, building.COMPILERS)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sanitizers", "arguments"), [("address,undefined", []), ("thread", ["plain-threads"])]
)
def test_no_reads_beyond_memory_no_undefined_behaviour_no_races(
    sanitizers: str, arguments: list[str], tmp_path: Path
) -> None:
    checked = (f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all", "-O0", "-g1")
    building.build(COMPILER, tmp_path, extra=checked, link=("-fopenmp",))
    program = tmp_path / "driver"
    objects = [str(made) for made in tmp_path.glob("*.o")]
    subprocess.run(
        [
            *(COMPILER, "-std=c++17", *checked, f"-I{building.SOURCES}", "-fopenmp", "-pthread"),
            *(str(DRIVER), *objects, "-o", str(program)),
        ],
        check=True,
    )
    ended = subprocess.run([str(program), *arguments], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr[-3000:]
    assert ended.stdout.endswith(" products\n")


def test_of_two_that_build_at_once_one_builds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(building, "FLAGS", ("-std=c++17", "-O0", "-fPIC"))
    monkeypatch.setattr(building, "FILES", {"plain.cpp": ()})
    made = []
    build = building.build

    def counted(compiler: str, work: Path, *, link: tuple[str, ...]) -> Path:
        made.append(work)
        return build(compiler, work, link=link)

    monkeypatch.setattr(building, "build", counted)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        paths = {one.result() for one in [pool.submit(building.built, linked_openmp=True) for _ in range(2)]}
    assert len(paths) == len(made) == 1
    assert [path.name for path in (tmp_path / "secateur").iterdir() if path.suffix == ".so"] == [
        path.name for path in paths
    ]


def test_what_the_compiler_says_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "FLAGS", ("--no-such-flag",))
    monkeypatch.setattr(building, "FILES", {"plain.cpp": ()})
    with pytest.raises(building.NotBuilt, match="no-such-flag"):
        building.build(COMPILER, tmp_path)
