"""Reconstruction with one worker and with two, and the cost of sums that are reproducible.

The same job prunes by SparseGPT and fits each block to the dense one, on a local Ray: with one worker, with
two, and with two and `reproducible: false`, in turns within each round. Each worker has one thread. A job's
time is that of its prune stage, without the wait for processes. The bounds: two workers give the digests of
one, and take less time. The last line is JSON.

`--quick`: three blocks as wide as those of the demo's model, with random weights, and 8 samples of 128
tokens, instead of the demo's model and 16 samples of 512.
"""

import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from jobs import calibration, parser_of, run_job
from pipeline.job.ledger import NodeResult
from tests.models import tiny_documents, tiny_text, tiny_tokenizer
from workers.demo_data import prepare_demo

WAYS = {"one": (1, True), "two": (2, True), "two, any order": (2, False)}  # workers, reproducible


def main() -> None:
    """Print a table and one line of JSON; exit 1 when a bound does not hold."""
    parser = parser_of(__doc__, quick="three blocks with random weights and 8 samples of 128 tokens")
    parser.add_argument("--rounds", type=int, default=3, help="how often each way is taken")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="secateur-bench-") as name:
        directory = Path(name)
        spec = _random(directory) if arguments.quick else _demo(arguments.data)
        made: dict[str, list[NodeResult]] = {way: [] for way in WAYS}
        for turn in range(arguments.rounds):
            for way, (workers, reproducible) in WAYS.items():
                request = {
                    "spec": {**spec, "reproducible": reproducible},
                    "resources": {"workers": workers, "memory_per_worker": "2GiB"},
                }
                job = f"{way.replace(', ', '-').replace(' ', '-')}-{turn}"
                made[way].append(run_job(job, request, directory, storage=job).results["prune"])
    seconds = {way: [round(one.measured.seconds, 2) for one in results] for way, results in made.items()}
    alone, ordered, free = (statistics.median(seconds[way]) for way in WAYS)
    digests = {
        (one.artifacts["checkpoint"].digest, one.artifacts["keep"].digest)
        for way in ("one", "two")
        for one in made[way]
    }
    details = made["two"][0].measured.details
    figures: dict[str, Any] = {
        "seconds": seconds,
        "two_to_one": round(ordered / alone, 3),
        "any_order_to_reproducible": round(free / ordered, 3),
        "exchanged_mb": round(details["exchanged_bytes"] / 1e6, 1),
        "carried_mb": round(details["carried_bytes"] / 1e6, 1),
        "digests_equal": len(digests) == 1,
    }
    for key, value in figures.items():
        print(f"{key:>26}  {value}")
    print(json.dumps(figures))
    sys.exit(0 if ordered < alone and len(digests) == 1 else 1)


def _demo(data_directory: Path) -> dict[str, Any]:
    data = prepare_demo(data_directory)
    return _spec(f"file:{data.model}", calibration(data), epochs=2)


def _random(directory: Path) -> dict[str, Any]:
    tokenizer = tiny_tokenizer("llama")
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=3,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=512,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(directory / "model")
    tokenizer.save_pretrained(directory / "model")
    text = tiny_text(directory, documents=tiny_documents(count=200, words=160))
    source = {"source": f"file:{text}", "samples": 8, "sequence_length": 128}
    return _spec(f"file:{directory}/model", source, epochs=4)


def _spec(model: str, source: dict[str, Any], *, epochs: int) -> dict[str, Any]:
    return {
        "model": {"source": model},
        "calibration": source,
        "prune": {
            "method": {"kind": "sparsegpt"},
            "pattern": {"kind": "unstructured", "sparsity": 0.5},
            "reconstruction": {"epochs": epochs, "samples_per_step": 8},
        },
    }


if __name__ == "__main__":
    main()
