"""The perplexity that recovery training wins back on the real 134M model, by language modelling and by
distillation.

The cases are Wanda to 60 %, Wanda to 2:4, and 10 of the 30 blocks dropped (99M parameters left), which is
also compared with the same architecture from random weights at equal tokens. Every training is a whole job on
a local Ray with one worker on two threads. The text is Wikipedia paragraphs; perplexity is measured on
articles that come before the training text.

`--quick`: the depth case alone, on fewer tokens. Exits with 1 when a target is missed (see TARGETS).
"""

import json
import math
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from jobs import EVALUATED_CHARACTERS, Ran, calibration, evaluation, parser_of, run_job
from pipeline.artifacts.certificate import Certificate
from pipeline.artifacts.curve import Curve
from workers.demo_data import DemoData, prepare_demo

DROPPED = (5, 7, 9, 11, 13, 15, 17, 19, 21, 23)  # every other block of the middle
LENGTH, BATCH = 256, 4
TARGETS = (
    "the depth cut wins back a third (--quick) or half of the lost log-perplexity; KD is not worse than LM"
)
CASES = ("wanda_60", "wanda_2of4", "depth")


@dataclass(frozen=True)
class Bench:
    """Runs jobs in one directory. `steps`: of each training. `windows`: of the evaluation."""

    data: DemoData
    directory: Path
    steps: int
    windows: int

    def run(self, name: str, spec: dict[str, Any]) -> Ran:
        """Run a whole job. Stored stages are not run again."""
        request = {
            "spec": {**spec, "evaluation": evaluation(self.data, windows=self.windows)},
            "resources": {
                "workers": 1,
                "cpus_per_worker": 2,
                "memory_per_worker": "8GiB",
                "recovery": {"micro_batch_size": BATCH, "save_every_steps": 1000},
            },
        }
        return run_job(name, request, self.directory)

    def recovery(self, objective: dict[str, Any], *, peak: float) -> dict[str, Any]:
        return {
            "text": {
                "source": f"file:{self.directory / 'training.txt'}",
                "sequence_length": LENGTH,
                "validation_sequences": 8,
            },
            "objective": objective,
            "steps": self.steps,
            "global_batch_size": BATCH,
            "learning_rate": {"peak": peak, "warmup_steps": max(2, self.steps // 8)},
            "validate_every_steps": max(1, self.steps // 4),
            "certify_every_steps": 8,
        }


def main() -> None:
    """Print a table and one line of JSON, and draw the curves."""
    parser = parser_of(__doc__, quick="the depth case alone, 8192 tokens")
    parser.add_argument("--picture", type=Path, help="write the loss curves there as SVG")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="secateur-bench-") as name:
        bench = Bench(
            data=prepare_demo(arguments.data),
            directory=Path(name),
            steps=8 if arguments.quick else 24,
            windows=8 if arguments.quick else 16,
        )
        text = bench.data.wiki.read_text(encoding="utf-8")
        (bench.directory / "training.txt").write_text(text[EVALUATED_CHARACTERS:], encoding="utf-8")
        figures: dict[str, Any] = dict.fromkeys(CASES)
        kept: list[bool] = []
        figures["depth"] = depth_case(bench, arguments.picture)
        print(f"depth: {figures['depth']}", file=sys.stderr, flush=True)
        if not arguments.quick:
            for case in ("wanda_60", "wanda_2of4"):
                figures[case], held = sparse_case(bench, case)
                print(f"{case}: {figures[case]}", file=sys.stderr, flush=True)
                kept += held
        show(figures, tokens=bench.steps * BATCH * LENGTH)
    figures["zeros_kept"] = all(kept) if kept else None
    figures["tokens"] = bench.steps * BATCH * LENGTH
    print(json.dumps(figures))
    sys.exit(0 if targets_met(figures, quick=arguments.quick) else 1)


def sparse_case(bench: Bench, case: str) -> tuple[dict[str, float], list[bool]]:
    """Prune by Wanda, then train with both objectives."""
    pattern = {"kind": "nm", "keep": 2, "group": 4}
    if case == "wanda_60":
        pattern = {"kind": "unstructured", "sparsity": 0.6}
    spec = {
        "model": {"source": f"file:{bench.data.model}"},
        "calibration": calibration(bench.data),
        "prune": {"method": {"kind": "wanda"}, "pattern": pattern},
    }
    runs = {
        name: bench.run(f"{case}-{name}", {**spec, "recovery": bench.recovery(objective, peak=3e-4)})
        for name, objective in objectives().items()
    }
    figures = {
        "dense": runs["lm"].perplexity("dense"),
        "pruned": runs["lm"].perplexity("pruned"),
        **{name: ran.perplexity("recovered") for name, ran in runs.items()},
    }
    return figures, [zeros_kept(ran) for ran in runs.values()]


def depth_case(bench: Bench, picture: Path | None) -> dict[str, float]:
    """Drop blocks, then train with both objectives, and from random weights by language modelling."""
    cut, random = bench.directory / "cut", bench.directory / "random"
    drop_blocks(bench.data.model, cut)
    random_weights(cut, random)
    teacher = {"source": f"file:{bench.data.model}"}
    runs = {}
    for name, objective in objectives().items():
        asked = objective if name == "lm" else {**objective, "teacher": teacher}
        recovery = bench.recovery(asked, peak=1e-3)
        runs[name] = bench.run(f"depth-{name}", {"model": {"source": f"file:{cut}"}, "recovery": recovery})
    recovery = bench.recovery({"kind": "language_modelling"}, peak=1e-3)
    runs["random"] = bench.run("depth-random", {"model": {"source": f"file:{random}"}, "recovery": recovery})
    if picture is not None:
        picture.write_text(draw({name: curve(ran) for name, ran in runs.items()}))
    return {
        "dense": dense_perplexity(bench),
        "pruned": runs["lm"].perplexity("dense"),
        **{name: ran.perplexity("recovered") for name, ran in runs.items()},
    }


def objectives() -> dict[str, dict[str, Any]]:
    """Both objectives. They see the same tokens in the same order."""
    return {
        "lm": {"kind": "language_modelling"},
        "kd": {"kind": "distillation", "lm_weight": 0.1},
    }


def curve(ran: Ran) -> Curve:
    """The curve of the training."""
    return ran.load("recover", "curve", Curve)


def zeros_kept(ran: Ran) -> bool:
    """Tells whether the training's certificate says that all zeros were kept."""
    return ran.load("recover", "certificate", Certificate).holds


def drop_blocks(source: Path, target: Path) -> None:
    """Write the checkpoint without the blocks in DROPPED, and renumber the others."""
    target.mkdir()
    for file in source.iterdir():
        if not file.name.endswith((".safetensors", ".index.json")):
            shutil.copy(file, target / file.name)
    config = json.loads((source / "config.json").read_text())
    left = [block for block in range(config["num_hidden_layers"]) if block not in DROPPED]
    config["num_hidden_layers"] = len(left)
    (target / "config.json").write_text(json.dumps(config, indent=2))
    tensors = {}
    for file in source.glob("*.safetensors"):
        for name, tensor in load_file(file).items():
            head, layers, rest = name.partition("model.layers.")
            if not layers:
                tensors[name] = tensor
                continue
            block, _, inside = rest.partition(".")
            if int(block) in left:
                tensors[f"{head}{layers}{left.index(int(block))}.{inside}"] = tensor
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})


def random_weights(like: Path, target: Path) -> None:
    """Write a checkpoint with the same architecture and tokenizer, and random weights as in a training from
    scratch."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(like), dtype=torch.float32)
    model.save_pretrained(target)
    for file in like.iterdir():
        if "token" in file.name or file.suffix in (".txt", ".jinja") or file.name == "vocab.json":
            shutil.copy(file, target / file.name)


def dense_perplexity(bench: Bench) -> float:
    """The dense model's perplexity by plain transformers, on windows as a job cuts them."""
    tokenizer = AutoTokenizer.from_pretrained(bench.data.model)
    model = AutoModelForCausalLM.from_pretrained(bench.data.model, dtype=torch.float32)
    text = bench.data.wiki.read_text(encoding="utf-8")[:EVALUATED_CHARACTERS]
    tokens = torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"])
    losses = []
    with torch.no_grad():
        for window in tokens[: 512 * bench.windows].view(-1, 1, 512):
            losses.append(float(model(input_ids=window, labels=window).loss))
    return math.exp(sum(losses) / len(losses))


def won_back(figures: dict[str, float], name: str) -> float:
    """The share of the lost log-perplexity that training won back."""
    lost = math.log(figures["pruned"]) - math.log(figures["dense"])
    return (math.log(figures["pruned"]) - math.log(figures[name])) / lost


def show(figures: dict[str, Any], *, tokens: int) -> None:
    """Print perplexities, and the shares that were won back."""
    print(f"{tokens} tokens per training")
    print(
        f"{'case':<12}{'dense':>9}{'pruned':>10}{'LM':>9}{'won back':>10}{'KD':>9}{'won back':>10}"
        f"{'random':>10}"
    )
    for case in CASES:
        found = figures[case]
        if found is not None:
            shares = [f"{won_back(found, name):>9.0%}" for name in ("lm", "kd")]
            random = f"{found['random']:>10.1f}" if "random" in found else ""
            print(
                f"{case:<12}{found['dense']:>9.2f}{found['pruned']:>10.1f}{found['lm']:>9.2f} {shares[0]}"
                f"{found['kd']:>9.2f} {shares[1]}{random}"
            )


def targets_met(figures: dict[str, Any], *, quick: bool) -> bool:
    """Tells whether TARGETS hold."""
    depth = figures["depth"]
    needed = 1 / 3 if quick else 1 / 2
    best = max(won_back(depth, name) for name in ("lm", "kd"))
    not_worse = all(found["kd"] <= found["lm"] for found in (figures[case] for case in CASES) if found)
    return best > needed and not_worse and figures["zeros_kept"] is not False


def draw(curves: dict[str, Curve]) -> str:
    """Draw the language-modelling loss over tokens as SVG, one line for each curve."""
    width, height, left, top = 720, 360, 60, 20
    tokens = max(record.step for curve in curves.values() for record in curve.steps) * BATCH * LENGTH
    losses = [r.language_modelling_loss for curve in curves.values() for r in curve.steps]
    low, high = math.floor(min(losses)), math.ceil(max(losses))
    names = {"lm": "depth cut, LM", "kd": "depth cut, distillation", "random": "random weights, LM"}
    colours = {"lm": "#2563eb", "kd": "#059669", "random": "#b45309"}

    def at(step: int, loss: float) -> str:
        x = left + step * BATCH * LENGTH / tokens * (width - left - 150)
        return f"{x:.1f},{top + (high - loss) / (high - low) * (height - top - 50):.1f}"

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        f'font-size="12"><rect width="{width}" height="{height}" fill="white"/>'
    ]
    for loss in range(low, high + 1):
        x, y = at(0, loss).split(",")
        parts.append(f'<line x1="{x}" x2="{width - 150}" y1="{y}" y2="{y}" stroke="#e5e7eb"/>')
        parts.append(f'<text x="{left - 8}" y="{float(y) + 4}" text-anchor="end">{loss}</text>')
    lowest = 0.0
    for name, curve in sorted(curves.items(), key=lambda one: -one[1].steps[-1].language_modelling_loss):
        points = " ".join(at(r.step, r.language_modelling_loss) for r in curve.steps)
        last = curve.steps[-1]
        x, y = at(last.step, last.language_modelling_loss).split(",")
        lowest = max(float(y) + 4, lowest + 15)  # labels do not overlap
        colour = colours[name]
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<text x="{float(x) + 6}" y="{lowest:.1f}" fill="{colour}">{names[name]}</text>')
    parts.append(
        f'<text x="{(width - 90) / 2}" y="{height - 12}" text-anchor="middle">training loss (nats) over '
        f"{tokens:,} tokens</text></svg>"
    )
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    main()
