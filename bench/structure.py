"""The perplexity and speed of the real 134M model after cuts to smaller sizes, before any training.

Width (hidden channels, heads and FFN channels at once) is chosen at random, by magnitude and by activations;
depth at even distances and by influence; the vocabulary by its use in C4 and Wikipedia. Each case is a whole
job on a local Ray. Perplexity is measured on windows of 512 tokens of Wikipedia articles, calibration uses
16 × 512 tokens of C4. Models with vocabularies of their own are compared per byte of the same text.

Speed is measured for the dense and the width-cut model by turns, in transformers, onnxruntime and llama.cpp,
in tokens per second on two threads (see consumers.py).

`--quick`: fewer windows and tokens. Exits with 1 when a relation does not hold (see RELATIONS).
"""

import json
import statistics
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from consumers import THREADS, Consumer, llama_cpp_consumer, onnx_consumer, transformers_consumer
from jobs import Ran, calibration, evaluation, parser_of, run_job
from pipeline.artifacts.vocabulary import VocabularyTable
from pipeline.checkpoint.export import export_checkpoint
from pipeline.evaluation.comparison import compare
from workers.demo_data import DemoData, prepare_demo

WIDTH = {"hidden_size": 528, "num_attention_heads": 6, "intermediate_size": 1280}
BLOCKS = 26
TOKENS = 16_000  # of 49,152
CASES: dict[str, dict[str, Any]] = {
    "width_random": {**WIDTH, "criterion": {"kind": "random"}},
    "width_magnitude": {**WIDTH, "criterion": {"kind": "magnitude"}},
    "width_activation": WIDTH,
    "depth_spaced": {"drop_blocks": {"kind": "spaced", "num_blocks": BLOCKS}},
    "depth_block_influence": {"drop_blocks": {"kind": "block_influence", "num_blocks": BLOCKS}},
}
RELATIONS = (  # the first must have a lower perplexity than the second
    ("width_activation", "width_random"),
    ("depth_block_influence", "depth_spaced"),
)


ROUNDS = 5  # for each consumer, dense and cut by turns; the median counts


def main() -> None:
    """Print tables and one line of JSON."""
    parser = parser_of(__doc__, quick="4 windows instead of 16, 32 generated tokens instead of 128")
    arguments = parser.parse_args()
    data = prepare_demo(arguments.data)
    perplexities: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="secateur-bench-") as name:
        directory = Path(name)
        print(f"| {'cut':<24} | perplexity |\n|{'-' * 26}|-----------:|")
        for case, structure in CASES.items():
            ran = run_job(case, _request(data, structure, quick=arguments.quick), directory)
            if not perplexities:
                perplexities["dense"] = ran.perplexity("dense")
                print(f"| {'dense':<24} | {perplexities['dense']:>10.2f} |")
            perplexities[case] = ran.perplexity("pruned")
            print(f"| {case:<24} | {perplexities[case]:>10.2f} |", flush=True)
            if case == "width_activation":
                _export(ran, directory / "cut")
        vocabulary = _by_the_byte(data, directory, quick=arguments.quick)
        speeds = _speeds(data, directory, tokens=32 if arguments.quick else 128)
    print(f"\n| {'tokens per second':<24} | dense | cut | ratio |\n|{'-' * 26}|---:|---:|---:|")
    for consumer, found in speeds.items():
        dense, cut = found["dense"], found["pruned"]
        print(f"| {consumer:<24} | {dense:.1f} | {cut:.1f} | {cut / dense:.2f} |")
    print(json.dumps(_last_line(perplexities, vocabulary, speeds)))
    missed = [pair for pair in RELATIONS if perplexities[pair[0]] >= perplexities[pair[1]]]
    for lower, higher in missed:
        print(f"{lower} is not below {higher}", file=sys.stderr)
    sys.exit(1 if missed else 0)


def _by_the_byte(data: DemoData, directory: Path, *, quick: bool) -> dict[str, float]:
    """Byte perplexities before and after a cut of the vocabulary, on about as much text as in the windows of
    the other cuts."""
    texts = [{"source": f"file:{text}"} for text in (data.calibration, data.wiki)]
    structure = {"vocabulary": {"size": TOKENS, "multiple_of": 64, "texts": texts}}
    whole_text = evaluation(data)
    (text,) = whole_text["perplexity"]
    del text["windows"]
    text["characters"] = 10_000 if quick else 40_000
    request = _request(data, structure, quick=quick)
    request["spec"]["evaluation"] = whole_text
    ran = run_job("vocabulary", request, directory)
    (row,) = compare(ran.evaluation("dense"), ran.evaluation("pruned"), own_tokenizers=True)
    table = ran.load("cut_vocabulary", "vocabulary", VocabularyTable)
    print(f"\n| {'vocabulary':<24} | dense | cut |\n|{'-' * 26}|---:|---:|")
    figures: Iterable[tuple[str, str, str]] = (
        ("tokens", f"{table.dense_rows:,}", f"{table.rows:,}"),
        ("byte perplexity", f"{row.dense:.4f}", f"{row.final:.4f}"),
        ("tokens per byte, held out", f"{table.dense_tokens_per_byte:.4f}", f"{table.tokens_per_byte:.4f}"),
        ("corpus kept", "", f"{table.kept_share:.2%}"),
    )
    for name, before, after in figures:
        print(f"| {name:<24} | {before} | {after} |", flush=True)
    return {"dense": row.dense, "cut": row.final}


def _request(data: DemoData, structure: dict[str, Any], *, quick: bool) -> dict[str, Any]:
    return {
        "spec": {
            "model": {"source": f"file:{data.model}"},
            "calibration": calibration(data),
            "structure": structure,
            "evaluation": evaluation(data, windows=4 if quick else 16),
        },
        "resources": {"workers": 1, "cpus_per_worker": 2, "memory_per_worker": "4GiB"},
    }


def _export(ran: Ran, directory: Path) -> None:
    directory.mkdir()
    checkpoint = ran.results["slice"].artifacts["checkpoint"]
    assert checkpoint.kind == "checkpoint"
    export_checkpoint(ran.content, checkpoint, directory)


def _speeds(data: DemoData, directory: Path, *, tokens: int) -> dict[str, dict[str, float]]:
    torch.set_num_threads(THREADS)
    makers = {
        "transformers": lambda model: transformers_consumer(model, tokens=tokens),
        "onnxruntime": lambda model: onnx_consumer(model, at=directory),
        "llama.cpp": lambda model: llama_cpp_consumer(model, at=directory, tokens=tokens),
    }
    found = {}
    for name, make in makers.items():
        pair: dict[str, Consumer] = {"dense": make(data.model), "pruned": make(directory / "cut")}
        for run in pair.values():
            run()  # warms up
        rounds = [{which: run() for which, run in pair.items()} for _ in range(ROUNDS)]
        found[name] = {which: statistics.median(one[which] for one in rounds) for which in pair}
    return found


def _last_line(
    perplexities: dict[str, float], vocabulary: dict[str, float], speeds: dict[str, dict[str, float]]
) -> dict[str, dict[str, Any]]:
    dense = {"dense": perplexities["dense"]}

    def of(cut: str) -> dict[str, float]:
        prefix = f"{cut}_"
        own = {
            name.removeprefix(prefix): one for name, one in perplexities.items() if name.startswith(prefix)
        }
        return dense | own

    return {
        "width": of("width"),
        "depth": of("depth"),
        "vocabulary": vocabulary,
        "tokens_per_second": speeds,
    }


if __name__ == "__main__":
    main()
