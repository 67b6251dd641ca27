"""How fast targets are with a pruned model, beside the dense one: single zeros, 2:4, and smaller sizes.

Each form is a whole job of `secateur.prune` with the demo's model, which is exported to each target, opened
there and compared with transformers, and timed in turn with the dense model, on two threads. Needs:
pip install 'secateur[targets]'; with SECATEUR_VLLM_PYTHON vLLM is measured too.

`--quick`: shorter prompts and answers, and one round.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import secateur
from jobs import parser_of
from pipeline.report.data import ReportDocument
from pipeline.report.sections.serving import decode_ratio
from workers.demo_data import prepare_demo
from workers.settings import WorkerSettings

THREADS = 2
MAGNITUDE = {"kind": "magnitude"}
FORMS: dict[str, dict[str, Any]] = {
    "unstructured": {
        "prune": {"method": MAGNITUDE, "pattern": {"kind": "unstructured", "sparsity": 0.5}},
    },
    "nm": {"prune": {"method": MAGNITUDE, "pattern": {"kind": "nm", "keep": 2, "group": 4}}},
    "smaller sizes": {
        "structure": {
            "hidden_size": 528,
            "num_attention_heads": 6,
            "intermediate_size": 1280,
            "criterion": MAGNITUDE,
        },
    },
}
FIGURES = ("prefill", "decode")


def main() -> None:
    """Print a table and one line of JSON."""
    arguments = parser_of(
        __doc__, quick="32 + 16 tokens and one round instead of 128 + 64 and three"
    ).parse_args()
    data = prepare_demo(arguments.data)
    asked = (32, 16, 1) if arguments.quick else (128, 64, 3)
    fields = dict(zip(("prompt_tokens", "generated_tokens", "rounds"), asked, strict=True))
    kinds = WorkerSettings.model_validate({"storage_url": "file:///unused"}).available
    targets = [{"kind": kind, **fields} for kind in kinds]
    found: dict[str, dict[str, Any]] = {}
    print(f"{', '.join(kinds)}; tokens per second, median (least to most) of {asked[2]} rounds")
    print("| target | form | figure | dense | pruned | ratio |\n|---|---|---|---:|---:|---:|")
    with tempfile.TemporaryDirectory(prefix="secateur-bench-") as name:
        for form, spec in FORMS.items():
            made = secateur.prune(
                data.model,
                {**spec, "target": targets},
                Path(name) / form.replace(" ", "-"),
                threads=THREADS,
                storage=Path(name) / "storage",  # the dense model is exported once
            )
            assert isinstance(made.report, ReportDocument)
            for serving in made.report.data.serving:
                for figure in FIGURES:
                    dense, final = getattr(serving.dense, figure), getattr(serving.final, figure)
                    print(
                        f"| {serving.target} | {form} | {figure} | {_spread(dense)} | {_spread(final)} | "
                        f"{final.median / dense.median:.2f} |",
                        flush=True,
                    )
                found.setdefault(serving.target, {})[form] = {
                    "decode_ratio": round(decode_ratio(serving), 3),
                    "dense": serving.dense.model_dump(),
                    "final": serving.final.model_dump(),
                }
    print(json.dumps(found))


def _spread(spread: Any) -> str:
    return f"{spread.median:.1f} ({spread.least:.1f} to {spread.most:.1f})"


if __name__ == "__main__":
    main()
