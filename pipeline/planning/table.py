"""`python -m pipeline.planning.table` prints the table of docs/estimates.md: what five models take on 1 to 64
H200, by the model of this folder. A test compares the page with it."""

import sys
from collections.abc import Iterator
from typing import get_args

from pydantic import JsonValue

from pipeline.architecture.rows import row_for
from pipeline.methods.sparsegpt import SparseGPT
from pipeline.methods.wanda import Wanda
from pipeline.planning.evaluating import perplexity_cost
from pipeline.planning.machine import GPUS
from pipeline.planning.place import Cost, Place, Samples
from pipeline.planning.pruning import Walk, walk_cost
from pipeline.planning.recovering import recovery_cost
from pipeline.planning.shape import ModelShape, shape_of
from pipeline.report.quantity import human_bytes, human_seconds
from pipeline.request.resources import Resources, TrainingResources
from pipeline.sources.pins import MODEL, ModelFacts, Pins
from pipeline.spec.recovery import Recovery
from pipeline.structure.sizes import sizes_of

WORKERS = (1, 8, 64)
CALIBRATION = Samples(128, 2048)
WINDOWS = Samples(163, 2048)  # the test split of WikiText-2 in Llama's tokens
H200 = GPUS[-1]
HEADER = (
    "model | GPUs | Wanda | SparseGPT | memory | perplexity | recovery | ZeRO stage | memory",
    "---|---:|---:|---:|---:|---:|---:|---:|---:",
)


def _config(hidden: int, blocks: int, heads: int, inner: int, **beside: JsonValue) -> dict[str, JsonValue]:
    return {
        "hidden_size": hidden,
        "num_hidden_layers": blocks,
        "num_attention_heads": heads,
        "intermediate_size": inner,
        "tie_word_embeddings": False,
        **beside,
    }


# name → model type and sizes, as their publishers state them: Llama 2 7B and 13B, Llama 3.1 70B and 405B,
# Mixtral 8x22B
MODELS: dict[str, tuple[str, dict[str, JsonValue]]] = {
    "7B": ("llama", _config(4096, 32, 32, 11008, vocab_size=32000)),
    "13B": ("llama", _config(5120, 40, 40, 13824, vocab_size=32000)),
    "70B": ("llama", _config(8192, 80, 64, 28672, vocab_size=128256, num_key_value_heads=8)),
    "405B": ("llama", _config(16384, 126, 128, 53248, vocab_size=128256, num_key_value_heads=8)),
    "8x22B": (
        "mixtral",
        _config(
            6144,
            56,
            48,
            16384,
            vocab_size=32768,
            num_key_value_heads=8,
            num_local_experts=8,
            num_experts_per_tok=2,
        ),
    ),
}


def model(name: str) -> tuple[ModelShape, ModelFacts]:
    """The shape of a model of the table, and the facts that its config.json gives."""
    model_type, config = MODELS[name]
    row = row_for(model_type)
    sizes = sizes_of(row, config)
    shape = shape_of(row, config, sizes)
    facts = ModelFacts(
        model_type=model_type,
        blocks=sizes.num_hidden_layers,
        max_positions=None,
        hidden_size=sizes.hidden_size,
        vocabulary=sizes.vocab_size,
        parameters=shape.weights,
        config=config,
    )
    return shape, facts


def recovered(name: str, workers: int) -> tuple[int, Cost]:
    """The lowest ZeRO stage at which recovery of 100 million tokens fits an H200, and its cost; if none fits,
    stage 3 and its cost."""
    shape, facts = model(name)
    place = Place(H200, workers=workers, width=2)
    recovery = Recovery.model_validate(
        {
            "text": {"source": "file:/text.txt", "sequence_length": 2048},
            "tokens": 100_000_000,
            "global_batch_size": 256,
            "precision": "bfloat16",
        }
    )
    for stage in get_args(TrainingResources.model_fields["zero_stage"].annotation):
        split = TrainingResources(zero_stage=stage, gradient_checkpointing=True)
        cost = recovery_cost(
            shape,
            recovery,
            Resources(workers=workers, gpus_per_worker=1, recovery=split),
            place,
            pins=Pins(sources={}, models={MODEL: facts}),
            sparse=True,
            teacher=None,
        )
        if fits(cost):
            break
    return stage, cost


def fits(cost: Cost) -> bool:
    """Tells whether a cost fits an H200."""
    assert cost.gpu is not None, "the model's sizes are known"
    assert H200.memory is not None, "it is a GPU"
    return cost.gpu <= H200.memory


def rows() -> Iterator[str]:
    """The lines of the table in Markdown."""
    yield from (f"|{line}|" if line.startswith("-") else f"| {line} |" for line in HEADER)
    for name in MODELS:
        shape, _ = model(name)
        for workers in WORKERS:
            place = Place(H200, workers=workers, width=2)
            wanda, solved = (
                walk_cost(shape, CALIBRATION, place, Walk(runs=2, measures=method.needs, method=method))
                for method in (Wanda(), SparseGPT())
            )
            stage, trained = recovered(name, workers)
            time = _seconds(trained) if fits(trained) else "does not fit"
            cells = (
                name,
                str(workers),
                _seconds(wanda),
                _seconds(solved),
                _gpu(solved),
                _seconds(perplexity_cost(shape, WINDOWS, place)),
                time,
                str(stage),
                _gpu(trained),
            )
            yield f"| {' | '.join(cells)} |"


def _seconds(cost: Cost) -> str:
    assert cost.seconds is not None, "the length of the work is known"
    return human_seconds(cost.seconds)


def _gpu(cost: Cost) -> str:
    assert cost.gpu is not None, "the model's sizes are known"
    return human_bytes(cost.gpu)


if __name__ == "__main__":
    sys.stdout.write("\n".join(rows()) + "\n")
