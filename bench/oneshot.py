"""The perplexity of the real 134M model after pruning without training: methods × allocations × patterns.

Every case is a whole job on a local Ray with one worker; the import, the calibration (16 × 512 tokens of C4,
cut as in the papers) and the dense model's outliers are computed once. Perplexity is measured on 16 windows
of 512 tokens of Wikipedia articles that neither calibration nor tournaments see. `fit` adds a reconstruction
of each block, `fit4` one in steps of 4 samples instead of 8.

`winner` is the allocation that a tournament chose. admm and wanda have tournaments of their own; methods that
solve least squares take admm's winner, all others wanda's, because a tournament prunes a model nine times.

`--quick`: a few cases. `--cases wanda_uniform_0.5,...`: these alone. `--results FILE` keeps the figures there
and measures only the missing ones, so that an interrupted run can continue. `--picture FILE`: perplexity over
sparsity as SVG. Exits with 1 when a target or a known relation between the figures is missed (see TARGETS,
RELATIONS).
"""

import json
import math
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobs import Ran, calibration, evaluation, parser_of, run_job
from pipeline.allocations.tournament import TournamentTable
from pipeline.canonical import canonical_json
from workers.demo_data import DemoData, prepare_demo

WANDA, WANDA_ADMM, ADMM = (
    {"kind": "wanda"},
    {"kind": "composed", "mask_from": {"kind": "wanda"}, "update": {"kind": "admm"}},
    {"kind": "admm"},
)
FIT = {"epochs": 20, "samples_per_step": 8, "learning_rate": 0.0005}
METHODS: dict[str, dict[str, Any]] = {
    "magnitude": {"method": {"kind": "magnitude"}},
    "wanda": {"method": WANDA},
    "wanda_linear": {"method": WANDA, "propagation": "linear"},
    "wanda_dense": {"method": WANDA, "propagation": "dense"},
    "ria": {"method": {"kind": "ria"}},
    "dsnot": {"method": {"kind": "dsnot"}},
    "sparsegpt": {"method": {"kind": "sparsegpt"}},
    "wanda_obs": {"method": {"kind": "composed", "mask_from": WANDA, "update": {"kind": "obs"}}},
    "wanda_admm": {"method": WANDA_ADMM},
    "admm": {"method": ADMM},
    "wanda_fit": {"method": WANDA, "reconstruction": FIT},
    "wanda_admm_fit": {"method": WANDA_ADMM, "reconstruction": FIT},
    "admm_fit": {"method": ADMM, "reconstruction": FIT},
    "admm_fit4": {"method": ADMM, "reconstruction": {**FIT, "samples_per_step": 4}},
}
TOURNAMENT_BY = {  # the method whose tournament chooses a method's allocation; wanda's for all others
    "wanda": "wanda",
    "admm": "admm",
    "wanda_admm": "admm",
    "wanda_admm_fit": "admm",
    "admm_fit": "admm",
}
SPREAD = {"0.5": 0.05}  # OWL's spread; 0.08 at other sparsities
PROGRESSION = {"0.5": 0.005, "0.6": 0.006, "0.7": 0.008}  # ATP's step
ATP = ("wanda", "wanda_admm", "admm")  # methods that are measured with it
FITTED = (  # a fit takes many times as long as the rest of a job
    *(
        f"{method}_tournament_{pattern}"
        for pattern in ("0.5", "0.7")
        for method in ("wanda_admm_fit", "admm_fit")
    ),
    "admm_fit_atp_0.7",
    "admm_fit4_atp_0.7",
    "admm_fit_uniform_2of4",
    "wanda_fit_uniform_0.7",
)
ALLOCATIONS = ("uniform", "owl", "atp", "tournament")
PATTERNS: dict[str, dict[str, Any]] = {
    **{str(s): {"kind": "unstructured", "sparsity": s} for s in (0.5, 0.6, 0.7)},
    "2of4": {"kind": "nm", "keep": 2, "group": 4},
}
QUICK = ("wanda_uniform_0.7", "wanda_owl_0.7", "wanda_uniform_0.5", "wanda_admm_uniform_0.5")
TARGETS = {"0.5": 36.0, "0.7": 100.0}  # perplexities that the best one-shot result must reach
RELATIONS = (  # the first must have a lower perplexity than the second
    ("wanda_owl_0.7", "wanda_uniform_0.7"),
    ("wanda_admm_uniform_0.5", "wanda_uniform_0.5"),
    ("wanda_uniform_0.5", "magnitude_uniform_0.5"),
    ("sparsegpt_uniform_0.7", "wanda_uniform_0.7"),
    ("admm_uniform_0.7", "wanda_admm_uniform_0.7"),
    ("wanda_tournament_0.7", "wanda_owl_0.7"),
    ("wanda_fit_uniform_0.7", "wanda_uniform_0.7"),
)


def all_cases() -> list[str]:
    """The names of all cases. At 2:4 all blocks are equally sparse; atp is part of the tournaments, and a
    case of its own for some methods. The longest cases come last."""
    cases = [
        f"{method}_{allocation}_{pattern}"
        for pattern in PATTERNS
        for method in METHODS
        for allocation in ALLOCATIONS
        if "fit" not in method
        if allocation == "uniform" or (pattern != "2of4" and (allocation != "atp" or method in ATP))
    ]
    return [*sorted(cases, key=lambda case: "_tournament_" in case), *FITTED]


def main() -> None:
    """Print a table and one line of JSON."""
    parser = parser_of(__doc__, quick=f"{len(QUICK)} cases")
    parser.add_argument("--cases", help="names, separated by commas")
    parser.add_argument("--results", type=Path, help="a JSON file of figures to continue from")
    parser.add_argument("--picture", type=Path, help="write perplexity over sparsity there as SVG")
    arguments = parser.parse_args()
    cases = arguments.cases.split(",") if arguments.cases else QUICK if arguments.quick else all_cases()
    unknown = sorted(set(cases) - set(all_cases()))
    if unknown:
        parser.error(f"unknown cases {unknown}; known: {', '.join(all_cases())}")
    found: dict[str, Any] = {"figures": {}, "winners": {}}
    if arguments.results is not None and arguments.results.exists():
        found = json.loads(arguments.results.read_text())
    with tempfile.TemporaryDirectory(prefix="secateur-bench-") as name:
        bench = Bench(prepare_demo(arguments.data), Path(name), **found)
        for case in cases:
            if case not in bench.figures:
                bench.measure(case)
                print(f"{case:<28}{bench.figures[case]:>10.2f}", file=sys.stderr, flush=True)
                if arguments.results is not None:
                    kept = {"figures": bench.figures, "winners": bench.winners}
                    arguments.results.write_text(json.dumps(kept, indent=1) + "\n")
    show(bench.figures, bench.winners)
    if arguments.picture is not None:
        arguments.picture.write_text(draw(bench.figures))
    print(json.dumps(bench.figures))
    sys.exit(0 if relations_hold(bench.figures) else 1)


@dataclass
class Bench:
    """Measures cases. `figures`: perplexities by case. `winners`: the allocations that won tournaments, by
    the tournament's case."""

    data: DemoData
    directory: Path
    figures: dict[str, float] = field(default_factory=dict)
    winners: dict[str, dict[str, Any]] = field(default_factory=dict)

    def measure(self, case: str) -> None:
        """Run a case in a copy of the shared storage. A tournament that it needs runs first."""
        method, allocation, pattern = case.rsplit("_", 2)
        tournament = f"{TOURNAMENT_BY.get(method, 'wanda')}_tournament_{pattern}"
        asked = allocation_of(allocation, pattern)
        if allocation == "tournament" and case != tournament:
            if tournament not in self.winners:
                self.measure(tournament)
            asked = self.winners[tournament]
        own = self.directory / "own"
        shutil.copytree(self._shared(), own, copy_function=os.link)
        ran = self._run(case, METHODS[method], asked, pattern, storage=own)
        self.figures["dense"] = ran.perplexity("dense")
        self.figures[case] = ran.perplexity("pruned")
        if case == tournament:
            table = ran.load("allocate", "tournament", TournamentTable)
            self.winners[tournament] = json.loads(canonical_json(table.entries[table.winner].allocation))
        shutil.rmtree(own)

    def _shared(self) -> Path:
        """The storage of a job with outliers that neither trains nor solves anything."""
        storage = self.directory / "shared"
        if not storage.exists():
            owl = allocation_of("owl", "0.7")
            self._run("shared", METHODS["magnitude"], owl, "0.7", storage=storage)
        return storage

    def _run(
        self, name: str, method: dict[str, Any], allocation: dict[str, Any], pattern: str, *, storage: Path
    ) -> Ran:
        request = {
            "spec": {
                "model": {"source": f"file:{self.data.model}"},
                "calibration": calibration(self.data),
                "prune": {**method, "pattern": PATTERNS[pattern], "allocation": allocation},
                "evaluation": evaluation(self.data),
            },
            "resources": {"workers": 1, "cpus_per_worker": 2, "memory_per_worker": "4GiB"},
        }
        return run_job(name, request, self.directory, storage=storage.name)


def allocation_of(kind: str, pattern: str) -> dict[str, Any]:
    """An allocation with parameters that are known to be good for this model."""
    owl = {"kind": "owl", "multiplier": 5, "spread": SPREAD.get(pattern, 0.08)}
    if kind == "owl":
        return owl
    if kind == "atp":
        return {"kind": "atp", "step": PROGRESSION[pattern]}
    if kind == "uniform":
        return {"kind": "uniform"}
    steps = [{"kind": "atp", "step": step} for step in (0.004, 0.006, 0.008, 0.01)]
    others = [{"kind": "owl", "multiplier": 5, "spread": 0.15}, {"kind": "alpha_pruning"}, {"kind": "dlp"}]
    return {"kind": "tournament", "samples": 8, "candidates": [owl, *steps, *others]}


def show(figures: dict[str, float], winners: dict[str, dict[str, Any]]) -> None:
    """Print a table as Markdown: methods × allocations down, patterns across."""
    print(f"dense {figures['dense']:.2f}\n")
    print(f"| method | allocation | {' | '.join(PATTERNS)} |")
    print(f"|---|---|{'---:|' * len(PATTERNS)}")
    for method in METHODS:
        for allocation in ALLOCATIONS:
            row = [figures.get(f"{method}_{allocation}_{pattern}") for pattern in PATTERNS]
            if any(value is not None for value in row):
                cells = " | ".join("" if value is None else f"{value:.2f}" for value in row)
                print(f"| {method} | {'winner' if allocation == 'tournament' else allocation} | {cells} |")
    print()
    for case, winner in winners.items():
        print(f"{case}: {json.dumps(winner)}")


def draw(figures: dict[str, float]) -> str:
    """Draw perplexity (logarithmic) over sparsity as SVG, a line for each method and allocation with three
    points."""
    width, height, left, top, bottom, right = 760, 420, 50, 20, 40, 190
    sparsities = [pattern for pattern in PATTERNS if pattern != "2of4"]
    lines = {}
    for method, allocation in (
        ("magnitude", "uniform"),
        ("wanda", "uniform"),
        ("wanda", "owl"),
        ("wanda", "tournament"),
        ("sparsegpt", "uniform"),
        ("admm", "uniform"),
        ("admm", "tournament"),
        ("admm_fit", "tournament"),
    ):
        values = [figures.get(f"{method}_{allocation}_{sparsity}") for sparsity in sparsities]
        if None not in values:
            lines[f"{method}, {allocation.replace('tournament', 'winner')}"] = values
    ceiling = 2000.0
    low = math.log(figures["dense"])
    high = math.log(min(ceiling, max(max(values) for values in lines.values())))

    def y(perplexity: float) -> float:
        return top + (high - min(math.log(perplexity), high)) / (high - low) * (height - top - bottom)

    def x(i: int) -> float:
        return left + 20 + i * (width - left - right - 20) / (len(sparsities) - 1)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        f'font-size="12"><rect width="{width}" height="{height}" fill="white"/>'
    ]
    for tick in (20, 30, 50, 100, 200, 500, 1000, 2000):
        if low <= math.log(tick) <= high:
            at = f"{y(tick):.1f}"
            parts.append(f'<line x1="{left}" x2="{width - right}" y1="{at}" y2="{at}" stroke="#e5e7eb"/>')
            parts.append(f'<text x="{left - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick}</text>')
    for i, sparsity in enumerate(sparsities):
        parts.append(
            f'<text x="{x(i):.1f}" y="{height - 18}" text-anchor="middle">{float(sparsity):.0%}</text>'
        )
    colours = ("#6b7280", "#2563eb", "#60a5fa", "#1e3a8a", "#b45309", "#34d399", "#059669", "#be123c")
    placed = 0.0
    for (name, values), colour in sorted(
        zip(lines.items(), colours, strict=False), key=lambda one: -one[0][1][-1]
    ):
        points = " ".join(f"{x(i):.1f},{y(value):.1f}" for i, value in enumerate(values))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        placed = max(y(values[-1]) + 4, placed + 15)  # labels do not overlap
        label = f"{name} {values[-1]:.0f}"
        parts.append(f'<text x="{width - right + 8}" y="{placed:.1f}" fill="{colour}">{label}</text>')
    parts.append(
        f'<text x="{left}" y="{height - 3}">perplexity over sparsity, dense {figures["dense"]:.2f}</text>'
    )
    return "\n".join([*parts, "</svg>"]) + "\n"


def relations_hold(figures: dict[str, float]) -> bool:
    """Tells whether RELATIONS and TARGETS hold, as far as they were measured. Targets need a fitted case."""
    wrong = [
        (lower, higher)
        for lower, higher in RELATIONS
        if lower in figures and higher in figures and figures[lower] >= figures[higher]
    ]
    for lower, higher in wrong:
        print(f"{lower} is not below {higher}", file=sys.stderr)
    missed = []
    for pattern, target in TARGETS.items():
        fitted = [value for case, value in figures.items() if case.endswith(f"_{pattern}") and "_fit" in case]
        if fitted and min(fitted) > target:
            missed.append(pattern)
            print(f"the best at {pattern} is {min(fitted):.2f}, not {target:g}", file=sys.stderr)
    return not wrong and not missed


if __name__ == "__main__":
    main()
