"""The time and memory of pruning, next to the papers' way (bench/papers_way.py, here called the oracle).

`ours` is a whole job on a local Ray with one worker, and in the row `local` in one process without Ray. Its
time is that of the stages that measure and prune, as the job records them. The oracle is a process of its
own. Both run on the same samples with the same threads, by turns. Memory is counted beyond that of an idle
process that has imported torch and transformers, time from when the processes run. With `rounding: floor`
both give the same masks; `propagation: linear` gives others, so its perplexity is shown beside `pruned`'s.
The last table counts multiplications: those of the forward passes that the job's workers ran, the least that
the algorithm needs, those of the papers' way, and the time of ours at the measured rate of matrix products.

`--quick`: fewer and shorter samples. Exits with 1 when a target is missed (see TARGETS).

Shape legend: T tokens, O out_features, I in_features.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from jobs import ROOT, Ran, calibration, evaluation, parser_of, run_job
from pipeline.artifacts.refs import CheckpointRef, KeepRef, SamplesRef
from pipeline.checkpoint.keeps import load_keep
from pipeline.spec.sparsity_plan import SparsityPlan
from workers.demo_data import DemoData, prepare_demo

LOCAL = "local"  # Wanda as `secateur.prune` and `secateur run --local` run it
OWL = {"kind": "owl", "multiplier": 5, "spread": 0.08}
CASES: dict[str, dict[str, Any]] = {
    "wanda": {},
    LOCAL: {},
    "wanda_linear": {"propagation": "linear"},
    "owl": {"allocation": OWL},
    "owl_linear": {"allocation": OWL, "propagation": "linear"},
}
STAGES = ("measure_statistics", "measure_blocks", "allocate", "prune")
# The targets are shares of the oracle's time.
TARGETS = {"wanda": 0.9, LOCAL: 0.9, "owl": 0.7, "wanda_linear": 0.6, "owl_linear": 0.55}
MEMORY_TARGET = 0.25  # share of the oracle's memory
GEMM_TARGET = 0.85  # share of the measured rate of matrix products
THREADS = 2


def main() -> None:
    """Print tables and one line of JSON."""
    parser = parser_of(__doc__, quick="4 samples of 256 tokens instead of 16 of 512")
    parser.add_argument("--rounds", type=int, default=1, help="how often everything runs; medians are shown")
    arguments = parser.parse_args()
    data = prepare_demo(arguments.data)
    samples, length = (4, 256) if arguments.quick else (16, 512)
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="secateur-bench-") as name:
        bench = Bench(data, Path(name), samples=samples, length=length)
        rounds = [bench.round() for _ in range(arguments.rounds)]
        for case in CASES:
            figures[case] = _together([one[case] for one in rounds])
        rates = bench.rates()
        for case in CASES:
            figures[case] |= multiplications(case, figures[case], rates, samples=samples)
        figures["gemm_share"] = rates["share"]
    show(figures)
    print(json.dumps(figures))
    sys.exit(0 if targets_met(figures) else 1)


class Bench:
    """Runs the cases and the oracle in one directory."""

    def __init__(self, data: DemoData, directory: Path, *, samples: int, length: int) -> None:
        self._data = data
        self._directory = directory
        self._samples = samples
        self._length = length
        self._jobs = 0
        self._tokens = directory / "samples.safetensors"

    def round(self) -> dict[str, dict[str, Any]]:
        """Run every case once, and the oracle by turns."""
        found = {}
        for allocation in ("wanda", "owl"):
            plain, ran = self._ours(allocation)
            linear, _ = self._ours(f"{allocation}_linear")
            oracle, keep = self._oracle(owl=allocation == "owl")
            found[allocation] = {**plain, **oracle, "keep_equal": _keep_equal(ran, keep)}
            if allocation == "wanda":
                alone, ran = self._ours(LOCAL)
                found[LOCAL] = {**alone, **oracle, "keep_equal": _keep_equal(ran, keep)}
            found[f"{allocation}_linear"] = {**linear, **oracle}
            for case in (allocation, f"{allocation}_linear", *([LOCAL] if allocation == "wanda" else [])):
                print(f"{case:<14}{found[case]}", file=sys.stderr, flush=True)
        return found

    def rates(self) -> dict[str, float]:
        """The rates that `forwards` measures in a process of its own."""
        script = str(ROOT / "bench" / "forwards.py")
        command = [sys.executable, script, str(self._data.model), str(self._tokens), str(THREADS)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            command, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT, env=environment
        )
        rates: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return rates

    def _ours(self, case: str) -> tuple[dict[str, Any], Ran]:
        """Run a job in a storage of its own. Returns its figures and the job."""
        self._jobs += 1
        request = {
            "spec": {
                "model": {"source": f"file:{self._data.model}"},
                "calibration": calibration(self._data, samples=self._samples, sequence_length=self._length),
                "prune": {
                    "method": {"kind": "wanda"},
                    "pattern": {"kind": "unstructured", "sparsity": 0.5, "rounding": "floor"},
                    **CASES[case],
                },
                "evaluation": evaluation(self._data),
            },
            "resources": {"workers": 1, "cpus_per_worker": THREADS, "memory_per_worker": "4GiB"},
        }
        storage = f"storage-{self._jobs}"
        ran = run_job(case, request, self._directory, storage=storage, here=case == LOCAL)
        self._tokens.write_bytes(ran.read("calibrate", "samples", SamplesRef.TOKENS))
        stages = {node: ran.results[node].measured for node in STAGES if node in ran.results}
        memory = [
            one.peak_memory_bytes - one.details["idle_memory_bytes"]
            for one in stages.values()
            if one.peak_memory_bytes is not None and "idle_memory_bytes" in one.details
        ]
        plan = ran.load("allocate", "plan", SparsityPlan)
        figures = {
            "ours_s": sum(one.seconds for one in stages.values()),
            "ours_mb": max(memory) / 1e6,
            "blocks": len(plan.blocks),
            "perplexity": ran.perplexity("pruned"),
            "stages_s": {node: round(one.seconds, 2) for node, one in stages.items()},
            "forwards": int(sum(one.details.get("forwards", 0) for one in stages.values())),
            "cut_forwards": int(sum(one.details.get("cut_forwards", 0) for one in stages.values())),
        }
        return figures, ran

    def _oracle(self, *, owl: bool) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
        out = self._directory / "oracle.safetensors"
        command = [sys.executable, str(ROOT / "bench" / "papers_way.py"), "--model", str(self._data.model)]
        command += ["--samples", str(self._tokens), "--sparsity", "0.5", "--out", str(out)]
        if owl:
            command += ["--multiplier", str(OWL["multiplier"]), "--spread", str(OWL["spread"])]
        environment = {**os.environ, "OMP_NUM_THREADS": str(THREADS), "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            command, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT, env=environment
        )
        figures = json.loads(done.stdout.splitlines()[-1])
        memory = (figures["peak"] - figures["idle"]) / 1e6
        return {"oracle_s": figures["seconds"], "oracle_mb": memory}, load_file(out)


def multiplications(
    case: str, figures: dict[str, Any], rates: dict[str, float], *, samples: int
) -> dict[str, float]:
    """The multiplications of a case, in units of 10^12. The least that are needed run every block to its last
    measured input, and all blocks but the last to the end. The papers' way runs every block twice a sweep."""
    whole, cut = rates["whole"], rates["cut"]
    done = figures["forwards"] * whole + figures["cut_forwards"] * cut
    blocks = figures["blocks"]
    dense = case.startswith("owl")
    once = (blocks - 1) * whole + cut  # a sweep that measures as it goes
    least = samples * (once if case.endswith("linear") else (blocks - 1) * (whole + cut) + cut)
    if dense and case.endswith("linear"):
        least += samples * once
    elif dense:  # block 0 was measured there
        least += samples * (once - cut)
    papers = samples * blocks * whole * (4 if dense else 2)
    return {
        "done_t": round(done / 1e12, 3),
        "least_t": round(least / 1e12, 3),
        "papers_t": round(papers / 1e12, 3),
        "at_rate_s": round(done / rates["rate"], 2),
    }


def show(figures: dict[str, Any]) -> None:
    """Print both tables."""
    head = (
        "",
        "ours s",
        "oracle s",
        "ratio",
        "target",
        "ours MB",
        "oracle MB",
        "ratio",
        "perplexity",
        "keep",
    )
    print("".join(f"{name:>12}" for name in head))
    for case, target in TARGETS.items():
        one = figures[case]
        cells = [case, *(f"{one[key]:.1f}" for key in ("ours_s", "oracle_s"))]
        cells += [f"{one['ours_s'] / one['oracle_s']:.2f}", f"{target:.2f}"]
        cells += [f"{one[key]:.0f}" for key in ("ours_mb", "oracle_mb")]
        cells += [f"{one['ours_mb'] / one['oracle_mb']:.2f}", f"{one['perplexity']:.2f}"]
        equal = one.get("keep_equal")
        cells.append("other" if equal is None else "equal" if equal else "DIFFERENT")
        print("".join(f"{cell:>12}" for cell in cells))
    print(f"stages: {json.dumps({case: figures[case]['stages_s'] for case in CASES})}")
    print("".join(f"{name:>16}" for name in ("", "done 10^12", "least", "papers' way", "s at the rate")))
    for case in CASES:
        row = [f"{figures[case][key]:.3f}" for key in ("done_t", "least_t", "papers_t")]
        print("".join(f"{cell:>16}" for cell in (case, *row, f"{figures[case]['at_rate_s']:.1f}")))
    print(f"forwards at {figures['gemm_share']:.0%} of the rate of matrix products")


def targets_met(figures: dict[str, Any]) -> bool:
    """Tells whether time, memory, masks and rate meet their targets, and prints those that do not."""
    missed = []
    for case, target in TARGETS.items():
        one = figures[case]
        if one["ours_s"] > target * one["oracle_s"]:
            missed.append(f"{case} takes {one['ours_s'] / one['oracle_s']:.2f} of the oracle's time")
        if one["ours_mb"] > MEMORY_TARGET * one["oracle_mb"]:
            missed.append(f"{case} takes {one['ours_mb'] / one['oracle_mb']:.2f} of the oracle's memory")
        if one.get("keep_equal") is False:
            missed.append(f"{case}: other masks than the oracle's")
    if figures["gemm_share"] < GEMM_TARGET:
        missed.append(f"forwards at {figures['gemm_share']:.2f} of the rate of matrix products")
    for line in missed:
        print(f"missed: {line}")
    return not missed


def _together(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures of all rounds: medians of times and memory, equal masks only if they always were, and the
    rest from the first round."""
    found = dict(rounds[0])
    for key in ("ours_s", "oracle_s", "ours_mb", "oracle_mb"):
        found[key] = round(statistics.median(one[key] for one in rounds), 2)
    if "keep_equal" in found:
        found["keep_equal"] = all(one["keep_equal"] for one in rounds)
    return found


def _keep_equal(ran: Ran, keep: dict[str, torch.Tensor]) -> bool:
    made = ran.results["prune"].artifacts
    checkpoint, packed = made["checkpoint"], made["keep"]
    assert isinstance(checkpoint, CheckpointRef)
    assert isinstance(packed, KeepRef)
    ours = load_keep(ran.content, checkpoint, packed)
    return ours.keys() == keep.keys() and all(torch.equal(ours[name], keep[name].bool()) for name in keep)


if __name__ == "__main__":
    main()
