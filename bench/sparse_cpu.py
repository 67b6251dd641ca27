"""Sparse linears on the CPU beside what people would use instead, in one run.

Products: our kernels for float32, bfloat16 and int8 values, dense kernels of the same make, torch,
onnxruntime (which multiplies the zeros), MKL's sparse products and DeepSparse 1.8.0, whose licence allows
evaluation only.
Whole models: the demo's model pruned by ADMM at 70 %, and a random Llama of 1.1 billion weights with 70 %
zeros, generating greedily after a prompt of 256 tokens, beside torch and llama.cpp.

MKL and DeepSparse live in environments of their own below `--environments`, which this bench makes with pip
and venv. One that cannot be installed, or that fails, is named with its reason, and the others go on.

`--quick`: one round with shorter measurements, and 4 calibration samples. `--picture FILE`: speed over torch
as SVG. `--threads`: two if left out. `--clock cpu` counts the CPU time of products instead of the time that
passes, for machines that do other things meanwhile; it needs `--threads 1`. Exits with 1 when a target is
missed. Needs: pip install 'secateur[targets]'.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from jobs import ROOT, parser_of
from peers import environment
from sparse_models import (
    ENGINES,
    LLAMA_CPP,
    Speed,
    pruned_demo,
    random_llama,
    speed_of,
    write_ggufs,
)
from sparse_picture import draw
from workers.demo_data import prepare_demo

PROGRAMS = ROOT / "bench" / "peer_programs"
# name → what pip installs, and the program
PEERS = {
    "mkl": (("sparse-dot-mkl", "mkl", "scipy"), "sparse_mkl.py"),
    "deepsparse": (("deepsparse==1.8.0",), "sparse_deepsparse.py"),
}
SPARSITIES = (0.5, 0.7, 0.8, 0.9)
DECODE_TARGET = 1.5  # times the dense kernels of the same type and make
PREFILL_TARGET = 2.5  # times torch float32, 256 tokens, from 2048 x 5632 on

Cells = dict[str, dict[str, float]]  # seconds of a product by engine and "rows x columns/sparsity/batch"


def main() -> None:
    """Print the tables and one line of JSON."""
    parser = parser_of(__doc__, quick="one round, shorter measurements, 4 calibration samples")
    parser.add_argument("--directory", type=Path, default=ROOT / ".secateur" / "sparse")
    parser.add_argument("--environments", type=Path, default=ROOT / ".secateur" / "peers")
    parser.add_argument("--picture", type=Path, help="write speed over torch there as SVG")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--only", choices=("products", "models"))
    arguments = parser.parse_args()
    arguments.directory.mkdir(parents=True, exist_ok=True)
    found: dict[str, object] = {}
    missed: list[str] = []
    if arguments.only != "models":
        cells, failed = products(arguments)
        show_products(cells, failed)
        missed += missed_products(cells)
        found |= {"kernel_ratio_vs_deepsparse": ratios(cells), "seconds": cells, "failed": failed}
        if arguments.picture is not None:
            arguments.picture.write_text(draw(cells))
    if arguments.only != "products":
        speeds = models(arguments)
        show_models(speeds)
        real = speeds["demo, 134M"]
        for figure in ("decode", "prefill"):
            found[figure] = {engine: round(one.median(figure), 2) for engine, one in real.items()}
        found["bytes"] = {"dense": real["dense_bf16"].bytes, "sparse": real["sparse_bf16"].bytes}
        found["models"] = {
            model: {engine: asdict(one) for engine, one in engines.items()}
            for model, engines in speeds.items()
        }
        for model, engines in speeds.items():
            for kind in ("bf16", "int8"):
                ratio = engines[f"sparse_{kind}"].median("decode") / engines[f"dense_{kind}"].median("decode")
                if ratio < DECODE_TARGET:
                    missed.append(f"{model}: decode {kind} {ratio:.2f} < {DECODE_TARGET}")
    print("\n".join(f"missed: {one}" for one in missed))
    print(json.dumps(found))
    sys.exit(1 if missed else 0)


def products(arguments: argparse.Namespace) -> tuple[Cells, dict[str, str]]:
    """The median seconds of each cell over the rounds, and why a program has none."""
    given = ["--seconds", "0.08" if arguments.quick else "0.3", "--clock", arguments.clock]
    rounds: list[Cells] = []
    failed: dict[str, str] = {}
    for _ in range(1 if arguments.quick else 3):
        cells = _program(Path(sys.executable), "sparse_ours.py", given, arguments.threads)
        for name, (packages, program) in PEERS.items():
            if name in failed:
                continue
            try:
                python = environment(arguments.environments / name, packages)
                cells |= _program(python, program, given, arguments.threads)
            except subprocess.CalledProcessError as error:
                last = (error.stderr or "").strip().splitlines()[-1:]
                failed[name] = f"exit code {error.returncode}: {' '.join(last)}"
        rounds.append(cells)
    return {
        engine: {
            cell: statistics.median(one[engine][cell] for one in rounds if engine in one)
            for cell in rounds[0][engine]
        }
        for engine in rounds[0]
        if engine not in failed
    }, failed


def _program(python: Path, program: str, given: list[str], count: int) -> Cells:
    """What a program prints. It runs in a process of its own, with equal threads."""
    own = str(ROOT) if python == Path(sys.executable) else ""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NM_NUM_THREADS"), str(count))
    ended = subprocess.run(
        [str(python), str(PROGRAMS / program), *given],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **threads, "PYTHONPATH": own},
    )
    found: Cells = json.loads(ended.stdout.splitlines()[-1])
    return found


def show_products(cells: Cells, failed: dict[str, str]) -> None:
    """One row for each cell: microseconds of torch, and how many times faster the others are."""
    engines = [engine for engine in cells if engine != "torch_fp32"]
    print(f"| cell | torch, us | {' | '.join(engines)} |\n|---|{'---:|' * (len(engines) + 1)}")
    for cell, seconds in cells["torch_fp32"].items():
        faster = " | ".join(f"{seconds / cells[engine][cell]:.2f}" for engine in engines)
        print(f"| {cell} | {seconds * 1e6:.0f} | {faster} |")
    for name, reason in failed.items():
        print(f"{name}: {reason}")
    print(flush=True)


def ratios(cells: Cells) -> dict[str, float]:
    """How many times faster our fastest kernel of float values is than DeepSparse, by cell."""
    if "deepsparse" not in cells:
        return {}
    return {
        cell: round(seconds / min(cells["sparse_fp32"][cell], cells["sparse_bf16"][cell]), 3)
        for cell, seconds in cells["deepsparse"].items()
    }


def missed_products(cells: Cells) -> list[str]:
    """The targets that products miss."""
    missed = [f"{cell}: {ratio} of DeepSparse's speed" for cell, ratio in ratios(cells).items() if ratio < 1]
    for cell, seconds in cells["torch_fp32"].items():
        shape, sparsity, batch = cell.split("/")
        if float(sparsity) != 0.7:
            continue
        if batch == "256" and not shape.startswith("576"):
            ratio = seconds / min(cells[f"sparse_{kind}"][cell] for kind in ("fp32", "bf16", "int8"))
            if ratio < PREFILL_TARGET:
                missed.append(f"{cell}: {ratio:.2f} of torch's speed < {PREFILL_TARGET}")
        for kind in ("bf16", "int8") if batch == "1" else ():
            ratio = cells[f"dense_{kind}"][cell] / cells[f"sparse_{kind}"][cell]
            if ratio < DECODE_TARGET:
                missed.append(f"{cell}: {kind} {ratio:.2f} of the dense kernel's speed < {DECODE_TARGET}")
    return missed


def models(arguments: argparse.Namespace) -> dict[str, dict[str, Speed]]:
    """The speeds of both models in all engines."""
    data = prepare_demo(arguments.data)
    checkpoints = {
        "demo, 134M": pruned_demo(
            data, arguments.directory, samples=4 if arguments.quick else 16, threads=arguments.threads
        ),
        "random, 1.1B": random_llama(data, arguments.directory),
    }
    found: dict[str, dict[str, Speed]] = {}
    for model, checkpoint in checkpoints.items():
        write_ggufs(checkpoint)
        tokens, rounds = (24, 2) if arguments.quick else (64, 5)
        found[model] = {}
        for engine in ENGINES:
            found[model][engine] = speed_of(
                engine, checkpoint, threads=arguments.threads, tokens=tokens, rounds=rounds
            )
            print(f"{model}, {engine}: {found[model][engine]}", file=sys.stderr, flush=True)
    return found


def show_models(speeds: dict[str, dict[str, Speed]]) -> None:
    """Tokens per second: median, and least to most."""
    print("| model | engine | prefill, tokens/s | decode, tokens/s | weights in blocks, MB |")
    print("|---|---|---:|---:|---:|")
    for model, engines in speeds.items():
        for engine, speed in engines.items():
            size = "" if engine in LLAMA_CPP else f"{speed.bytes / 1e6:.0f}"
            cells = " | ".join(_spread(values) for values in (speed.prefill, speed.decode))
            print(f"| {model} | {engine} | {cells} | {size} |")


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f})"


if __name__ == "__main__":
    main()
