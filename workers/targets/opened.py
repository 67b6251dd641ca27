"""Opens a model in its target: starts the fresh process, asks, and reads its answer."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from pydantic import JsonValue

from pipeline.errors import TargetFailed
from workers.targets.consumer import Opening

ROOT = str(Path(__file__).resolve().parents[2])
SECONDS = 3600.0  # a large model takes minutes to load; what takes longer hangs
SAID = 2000  # last characters of standard error that an error shows
CHILD, REFERENCE = "workers.targets.child", "workers.targets.reference"

Answer = dict[str, JsonValue]


def ask(opening: Opening, asked: Mapping[str, object], *, python: str = "", module: str = CHILD) -> Answer:
    """Open a model in a fresh process and give its answers. `python`: the interpreter that has the target;
    this one by default. Raises TargetFailed with the end of what the process said."""
    request = json.dumps({"opening": asdict(opening), **asked})
    try:
        done = subprocess.run(
            [python or sys.executable, "-m", module],
            input=request,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            env=_environment(opening),
            check=False,
        )
    except FileNotFoundError as error:
        raise TargetFailed(f"{opening.kind}: there is no {python}; correct SECATEUR_VLLM_PYTHON") from error
    except subprocess.TimeoutExpired as error:
        raise TargetFailed(f"{opening.kind} gave no answer in {SECONDS:g} s") from error
    if done.returncode or not done.stdout.strip():
        said = done.stderr.strip()[-SAID:]
        raise TargetFailed(
            f"{opening.kind} cannot open or run what would be published (exit code {done.returncode}): {said}"
        )
    answer: Answer = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def _environment(opening: Opening) -> dict[str, str]:
    """This process's environment, with this code and nothing else on the path: a target's Python has its own
    packages."""
    found = {
        **os.environ,
        "PYTHONPATH": ROOT,
        "PYTHONSAFEPATH": "1",  # nothing in the working directory is taken for a package
        "OMP_NUM_THREADS": str(opening.threads),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
    }
    if not opening.gpus:
        found["CUDA_VISIBLE_DEVICES"] = ""
    return found
