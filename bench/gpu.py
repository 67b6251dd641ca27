"""What one GPU does with this code: truth, rates, walks over blocks, solvers, training, kernels, memory.

    python bench/gpu.py                         one GPU of 140 GB, at most nine minutes
    python bench/gpu.py --device cpu --quick    every path at tiny sizes; its figures mean nothing

It needs no network and no Ray: it calls the functions that actors call, and makes its own random checkpoints
below TMPDIR (6 GB). A machine without network needs Python 3.11 or later with torch and transformers. Where
there is a network, `bench/gpu_wheels.sh 3.12 wheels` downloads what else may be missing (20 MB), and there

    python3 -m pip install -q --no-index --no-deps --target /tmp/site wheels/*.whl
    PYTHONPATH=/tmp/site python3 bench/gpu.py

installs and runs it. Each section runs in a process of its own, with a limit of seconds, which grows with
`--budget`. One that fails is named with its error, one that needs another device is skipped, and one for
which no time is left is left out. Results are printed as they come; the last line is JSON. Exits with 1 if a
section failed.
"""

import argparse
import importlib
import json
import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a machine on which nothing is installed

BUDGET = 530.0  # seconds of all sections
LEAST = 20.0  # seconds without which a section does not begin


@dataclass(frozen=True)
class Section:
    """A section: its module and function in gpu_sections, and the seconds after which it is ended."""

    module: str
    function: str
    limit: float


# In order of importance: what comes last is left out first.
SECTIONS = {
    "rates": Section("rates", "rates", 40),
    "truth": Section("truth", "truth", 110),
    "walk": Section("walking", "walk", 120),
    "solvers": Section("solvers", "solvers", 60),
    "training": Section("training", "training", 140),
    "kernels": Section("kernels", "kernels", 60),
    "70B block": Section("walking", "widest_block", 60),
    "out of memory": Section("memory", "out_of_memory", 40),
    "reconstruction": Section("walking", "reconstruction", 60),
}


def main() -> None:
    """Run the sections. Exits with 1 if one failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds of all sections")
    parser.add_argument("--only", choices=SECTIONS, action="append", help="these sections; default: all")
    arguments = parser.parse_args()
    if arguments.device == "cpu":
        importlib.import_module("gpu_sections.setting")  # once for all sections
    found = run_all(arguments.only or list(SECTIONS), arguments)
    print(json.dumps(found))
    if any("failed" in one for one in found["sections"].values()):
        sys.exit(1)


def run_all(names: list[str], arguments: argparse.Namespace) -> dict[str, dict[str, object]]:
    """The results of all sections, by name, after those of the machine."""
    started, grown = time.monotonic(), max(arguments.budget / BUDGET, 1.0)
    sections: dict[str, object] = {}
    for name in names:
        left = arguments.budget - (time.monotonic() - started)
        if left < LEAST:
            sections[name] = {"left_out": f"{left:.0f} s are left of {arguments.budget:.0f}"}
        else:
            sections[name] = run_apart(name, arguments, limit=min(left, SECTIONS[name].limit * grown))
        print(f"{name}: {json.dumps(sections[name])}", flush=True)
    return {"machine": {"device": arguments.device, "quick": arguments.quick}, "sections": sections}


def run_apart(name: str, arguments: argparse.Namespace, *, limit: float) -> dict[str, object]:
    """The result of a section in a process of its own, which is ended after `limit` seconds. On CPUs it is
    forked from this one, which saves the imports; CUDA forbids that."""
    context = multiprocessing.get_context("spawn" if arguments.device == "cuda" else "fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=answer, args=(theirs, name, arguments.device, arguments.quick))
    started = time.monotonic()
    process.start()
    theirs.close()
    result: dict[str, object] = {"failed": f"it was ended after {limit:.0f} s"}
    try:
        if ours.poll(limit):
            result = ours.recv()
    except EOFError:
        process.join()
        result = {"failed": f"its process ended with exit code {process.exitcode}"}
    process.kill()
    process.join()
    return {**result, "took_seconds": round(time.monotonic() - started, 1)}


def answer(to: Connection, name: str, device: str, quick: bool) -> None:
    """Send the result of a section."""
    to.send(run_here(SECTIONS[name], device, quick=quick))
    to.close()


def run_here(section: Section, device: str, *, quick: bool) -> dict[str, object]:
    """The result of a section in this process."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import torch

    from gpu_sections.setting import Setting, Skipped

    setting = Setting(torch.device(device), quick)
    torch.manual_seed(0)
    try:
        if device == "cuda" and not torch.cuda.is_available():
            raise RuntimeError("torch sees no CUDA device; use --device cpu --quick to try the paths")
        work: Callable[[Setting], dict[str, object]] = getattr(
            importlib.import_module(f"gpu_sections.{section.module}"), section.function
        )
        named = {
            "device": torch.cuda.get_device_name() if setting.on_gpu else "cpu",
            "torch": torch.__version__,
        }
        return {**named, **work(setting)}
    except Skipped as reason:
        return {"skipped": str(reason)}
    except Exception as error:  # noqa: BLE001 - the other sections go on
        return {"failed": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()[-3000:]}


if __name__ == "__main__":
    main()
