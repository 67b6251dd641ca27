"""Every bench can be started as the docs say: `python bench/NAME.py`, anywhere."""

import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).resolve().parents[2] / "bench"
PROGRAM = """
import runpy, sys
for file in sys.argv[1:]:
    known, path = set(sys.modules), list(sys.path)
    runpy.run_path(file, run_name="imported")
    sys.path[:] = path
    for name in set(sys.modules) - known:
        if name.split(".")[0] in ("jobs", "tests"):
            del sys.modules[name]
"""


def test_every_bench_finds_what_it_imports(tmp_path: Path) -> None:
    begins = ("parser_of(", "bench.service")  # the API's bench is a folder, because its name is the package's
    found = sorted(BENCH.glob("*.py"))
    files = [str(path) for path in found if any(word in path.read_text() for word in begins)]
    assert {str(BENCH / "exchange.py"), str(BENCH / "api.py")} <= {*files}
    program = f"import sys; sys.path[0] = {str(BENCH)!r}\n{PROGRAM}"
    command = [sys.executable, "-c", program, *files]
    ended = subprocess.run(command, cwd=tmp_path, env={"PATH": "/usr/bin"}, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
