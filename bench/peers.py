"""The time, memory and perplexity of pruning beside other libraries, by turns in one run.

Wanda at 50 %: ours in one process (`secateur run --local`, and with `propagation: linear`), llm-compressor,
and the papers' way (papers_way.py). SparseGPT at 2:4: ours and ModelOpt, which has no Wanda. All get the same
samples and threads, and perplexity is measured on the same windows. Medians are shown, with the least and the
most of all rounds. Memory is counted beyond that of a process that has imported its libraries.

The libraries live in environments of their own below `--environments`, which this bench makes with pip; the
version of torch is the one that runs here. A library that cannot be installed, or that fails, is named with
its reason, and the others go on.

`--quick`: 4 samples of 256 tokens instead of 16 of 512. Exits with 1 when a target is missed.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from jobs import EVALUATED_CHARACTERS, ROOT, calibration, evaluation, parser_of, run_job
from pipeline.artifacts.refs import SamplesRef
from workers.demo_data import DemoData, prepare_demo

THREADS = 2
OURS = {
    "ours": {"method": {"kind": "wanda"}, "pattern": {"kind": "unstructured", "sparsity": 0.5}},
    "ours linear": {
        "method": {"kind": "wanda"},
        "pattern": {"kind": "unstructured", "sparsity": 0.5},
        "propagation": "linear",
    },
    "ours 2:4": {"method": {"kind": "sparsegpt"}, "pattern": {"kind": "nm", "keep": 2, "group": 4}},
}
PAPERS = "papers' way"
# name → what pip installs beside torch, and the program
PEERS = {
    "llm-compressor": (("llmcompressor",), "llmcompressor_way.py"),
    "modelopt 2:4": (("nvidia-modelopt", "transformers", "accelerate", "requests"), "modelopt_way.py"),
}
STAGES = ("measure_statistics", "measure_blocks", "allocate", "prune")
TARGETS = {"ours": 0.8, "ours linear": 0.5}  # shares of the papers' time
QUICK_TARGET = 0.9
MEMORY_TARGET = 0.25  # share of the papers' memory


@dataclass(frozen=True)
class Figures:
    """One run: seconds, bytes beyond an idle process, and perplexity; or the reason why there are none."""

    seconds: float = 0.0
    memory: float = 0.0
    perplexity: float = 0.0
    failed: str | None = None


def main() -> None:
    """Print a table and one line of JSON."""
    parser = parser_of(__doc__, quick="4 samples of 256 tokens instead of 16 of 512")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--environments", type=Path, default=ROOT / ".secateur" / "peers")
    parser.add_argument("--only", action="append", choices=(*OURS, PAPERS, *PEERS))
    arguments = parser.parse_args()
    data = prepare_demo(arguments.data)
    names = arguments.only or [*OURS, PAPERS, *PEERS]
    with tempfile.TemporaryDirectory(prefix="secateur-bench-") as name:
        bench = Bench(data, Path(name), arguments)
        bench.cut_samples()
        rounds = [{one: bench.run(one) for one in names} for _ in range(arguments.rounds)]
    found = {one: together([each[one] for each in rounds]) for one in names}
    show(found)
    print(json.dumps(found))
    sys.exit(0 if targets_met(found, quick=arguments.quick) else 1)


class Bench:
    """Runs every program in one directory, on the same samples."""

    def __init__(self, data: DemoData, directory: Path, arguments: argparse.Namespace) -> None:
        self._data = data
        self._directory = directory
        self._environments: Path = arguments.environments
        self._samples, self._length = (4, 256) if arguments.quick else (16, 512)
        self._jobs = 0
        self._tokens = directory / "samples.safetensors"
        self._evaluated = self._windows()

    def cut_samples(self) -> None:
        """Cut the samples once, as a job does, for the programs that run before the first job."""
        self._ours("ours")

    def run(self, name: str) -> Figures:
        """One run of one program. A failure of a library is one of its figures."""
        if name in OURS:
            found = self._ours(name)
        elif name == PAPERS:
            found = self._papers()
        else:
            try:
                found = self._peer(name)
            except subprocess.CalledProcessError as error:
                last = (error.stderr or "").strip().splitlines()[-1:]
                found = Figures(failed=f"exit code {error.returncode}: {' '.join(last)}")
        print(f"{name}: {found}", file=sys.stderr, flush=True)
        return found

    def _ours(self, name: str) -> Figures:
        self._jobs += 1
        request = {
            "spec": {
                "model": {"source": f"file:{self._data.model}"},
                "calibration": calibration(self._data, samples=self._samples, sequence_length=self._length),
                "prune": OURS[name],
                "evaluation": evaluation(self._data),
            },
            "resources": {"workers": 1, "cpus_per_worker": THREADS, "memory_per_worker": "4GiB"},
        }
        ran = run_job("ours", request, self._directory, storage=f"storage-{self._jobs}", here=True)
        self._tokens.write_bytes(ran.read("calibrate", "samples", SamplesRef.TOKENS))
        stages = [ran.results[node].measured for node in STAGES if node in ran.results]
        memory = [
            one.peak_memory_bytes - one.details["idle_memory_bytes"]
            for one in stages
            if one.peak_memory_bytes is not None and "idle_memory_bytes" in one.details
        ]
        return Figures(sum(one.seconds for one in stages), max(memory), ran.perplexity("pruned"))

    def _papers(self) -> Figures:
        out = self._directory / "papers.safetensors"
        given = ["--model", self._data.model, "--samples", self._tokens, "--sparsity", "0.5", "--out", out]
        found = self._program(Path(sys.executable), ROOT / "bench" / "papers_way.py", *given)
        model = AutoModelForCausalLM.from_pretrained(self._data.model, dtype=torch.float32)
        keeps = load_file(out)
        for parameter, weight in model.named_parameters():
            if parameter in keeps:
                weight.data.masked_fill_(keeps[parameter] == 0, 0)
        return self._figures(found, model)

    def _peer(self, name: str) -> Figures:
        packages, program = PEERS[name]
        python = environment(self._environments / name.split()[0], packages)
        out = self._directory / "peer"
        script = ROOT / "bench" / "peer_programs" / program
        found = self._program(python, script, self._data.model, self._tokens, out)
        return self._figures(found, AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32))

    def _program(self, python: Path, script: Path, *given: object) -> dict[str, float]:
        """The figures that a program prints. It runs in a process of its own, with equal threads."""
        own = str(ROOT) if python == Path(sys.executable) else ""
        variables = {**os.environ, "OMP_NUM_THREADS": str(THREADS), "PYTHONPATH": own}
        ended = subprocess.run(
            [str(python), str(script), *map(str, given)],
            capture_output=True,
            text=True,
            check=True,
            cwd=self._directory,
            env=variables,
        )
        found: dict[str, float] = json.loads(ended.stdout.splitlines()[-1])
        return found

    def _figures(self, found: dict[str, float], model: Any) -> Figures:
        losses = []
        with torch.no_grad():
            for tokens_L in self._evaluated:
                losses.append(model(input_ids=tokens_L[None], labels=tokens_L[None]).loss)
        perplexity = float(torch.stack(losses).double().mean().exp())
        return Figures(found["seconds"], found["peak"] - found["idle"], perplexity)

    def _windows(self) -> list[torch.Tensor]:
        """The windows on which a job measures perplexity (see `evaluation` in jobs.py)."""
        text = Path(self._data.wiki).read_text()[:EVALUATED_CHARACTERS]
        tokenizer = AutoTokenizer.from_pretrained(self._data.model)
        tokens = torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"])
        return [*tokens[: 16 * 512].split(512)]


def environment(directory: Path, packages: tuple[str, ...]) -> Path:
    """The Python of an environment with these packages, which is made at the first use."""
    python = directory / "bin" / "python"
    if not (directory / "complete").exists():
        print(f"installs {', '.join(packages)} into {directory}", file=sys.stderr, flush=True)
        subprocess.run(
            [sys.executable, "-m", "venv", str(directory)], check=True, capture_output=True, text=True
        )
        same_torch = f"torch=={torch.__version__.partition('+')[0]}"
        subprocess.run(
            [str(python), "-m", "pip", "install", "-q", same_torch, *packages],
            check=True,
            capture_output=True,
            text=True,
        )
        (directory / "complete").touch()
    return python


def together(runs: list[Figures]) -> dict[str, Any]:
    """The medians of all rounds, with the least and the most of the times."""
    failed = next((one.failed for one in runs if one.failed is not None), None)
    if failed is not None:
        return {"failed": failed}
    seconds = [one.seconds for one in runs]
    return {
        "seconds": statistics.median(seconds),
        "from": min(seconds),
        "to": max(seconds),
        "megabytes": statistics.median(one.memory for one in runs) / 1e6,
        "perplexity": runs[0].perplexity,
    }


def show(found: dict[str, dict[str, Any]]) -> None:
    """Print the table, with shares of the papers' way."""
    papers = found.get(PAPERS, {})
    print(f"{'':<16}{'s':>8}{'from':>8}{'to':>8}{'ratio':>8}{'MB':>8}{'ratio':>8}{'perplexity':>12}")
    for name, one in found.items():
        if "failed" in one:
            print(f"{name:<16}{one['failed']}")
            continue
        shares = [f"{one[key] / papers[key]:.2f}" if papers else "" for key in ("seconds", "megabytes")]
        print(
            f"{name:<16}{one['seconds']:>8.1f}{one['from']:>8.1f}{one['to']:>8.1f}{shares[0]:>8}"
            f"{one['megabytes']:>8.0f}{shares[1]:>8}{one['perplexity']:>12.2f}"
        )


def targets_met(found: dict[str, dict[str, Any]], *, quick: bool) -> bool:
    """Tells whether time and memory of ours meet their targets, and prints those that do not."""
    missed = []
    for name, target in TARGETS.items():
        if name not in found or PAPERS not in found:
            continue
        ours, papers = found[name], found[PAPERS]
        wanted = QUICK_TARGET if quick else target
        if ours["seconds"] > wanted * papers["seconds"]:
            missed.append(f"{name} takes {ours['seconds'] / papers['seconds']:.2f} of the papers' time")
        if ours["megabytes"] > MEMORY_TARGET * papers["megabytes"]:
            missed.append(f"{name} takes {ours['megabytes'] / papers['megabytes']:.2f} of their memory")
    for line in missed:
        print(f"missed: {line}")
    return not missed


if __name__ == "__main__":
    main()
