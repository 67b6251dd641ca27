"""Measures how fast a target is with the dense and with the final model, in one run."""

import json
import math
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel

from pipeline.artifacts.serving import Beside, Served, Serving, Spread
from pipeline.errors import NumericalError
from pipeline.spec.targets import GGUF_TYPES, GgufType, Target
from workers.targets.consumer import Opening
from workers.targets.opened import ask

if TYPE_CHECKING:
    from pipeline.text.windows import Windows  # which imports torch

Which = Literal["dense", "final", "dense_kernels"] | GgufType
Perplexities = Mapping[Which, Mapping[str, float]]
Openings = Mapping[Which, Opening]
MOST_LOSS = 700.0  # nats; of more, the perplexity is beyond float64


class Clock(BaseModel):
    """Seconds, as `Timing` of workers/targets/consumer.py."""

    first_token: float
    decode: float


class Timed(BaseModel):
    """The answer of one fresh process."""

    version: str
    timing: Clock
    peak_memory_bytes: int


class Scored(BaseModel):
    """The losses of all windows, by one fresh process, in nats."""

    version: str
    losses: list[float]


def timed_rounds(openings: Openings, target: Target, *, python: str = "") -> Iterator[tuple[Which, Timed]]:
    """Time all models, round by round. Raises TargetFailed.

    A round opens each model in a process of its own, one after the other, so that only one is in memory. The
    next round opens them in the other order, so that a machine that becomes slower meanwhile slows all. In
    each process two tokens are generated before the clock starts.
    """
    prompt = _prompt(openings.values(), target.prompt_tokens)
    asked = {"time": {"prompt": prompt, "tokens": target.generated_tokens}}
    for i in range(target.rounds):
        for which in list(openings)[:: -1 if i % 2 else 1]:
            yield which, Timed.model_validate(ask(openings[which], asked, python=python))


def text_perplexities(opening: Opening, texts: "Sequence[Windows]", *, python: str = "") -> dict[str, float]:
    """The perplexity of a model on each text by name, as its target computes it in a fresh process. Raises
    TargetFailed, and NumericalError where a loss is not finite."""
    windows = [pair for text in texts for pair in zip(text.tokens, text.scored, strict=True)]
    asked = {"score": [{"tokens": tokens.tolist(), "scored": scored} for tokens, scored in windows]}
    length = max(len(tokens) for tokens, _ in windows)
    found = iter(Scored.model_validate(ask(replace(opening, length=length), asked, python=python)).losses)
    perplexities = {}
    for text in texts:
        loss = sum(next(found) for _ in text.tokens) / sum(text.scored)
        if not loss < MOST_LOSS:
            raise NumericalError(f"{opening.kind}: the loss on {text.text.label} is {loss}; prune less")
        perplexities[text.text.label] = math.exp(loss)
    return perplexities


def serving_of(
    openings: Openings,
    target: Target,
    rounds: Iterable[tuple[Which, Timed]],
    *,
    machine: str,
    perplexities: Perplexities | None = None,
) -> Serving:
    """The figures of all rounds, and the perplexities of those models that have some."""
    timed: dict[Which, list[Timed]] = {which: [] for which in openings}
    for which, one in rounds:
        timed[which].append(one)
    some = openings["final"]

    def served(which: Which) -> Served:
        made = _served(timed[which], openings[which], target)
        return made.model_copy(update={"perplexity": (perplexities or {}).get(which, {})})

    return Serving(
        target=target.kind,
        version=timed["final"][0].version,
        prompt_tokens=target.prompt_tokens,
        generated_tokens=target.generated_tokens,
        rounds=target.rounds,
        threads=some.threads,
        gpus=some.gpus,
        machine=machine,
        dense=served("dense"),
        final=served("final"),
        dense_kernels=served("dense_kernels") if "dense_kernels" in timed else None,
        beside=tuple(
            Beside(type=kind, version=timed[kind][0].version, served=served(kind))
            for kind in GGUF_TYPES
            if kind in timed
        ),
    )


def _served(rounds: list[Timed], opening: Opening, target: Target) -> Served:
    clocks = [one.timing for one in rounds]
    return Served(
        prefill=Spread.of([target.prompt_tokens / clock.first_token for clock in clocks]),
        decode=Spread.of([(target.generated_tokens - 1) / clock.decode for clock in clocks]),
        first_token=Spread.of([clock.first_token for clock in clocks]),
        memory=Spread.of([float(one.peak_memory_bytes) for one in rounds]),
        file_bytes=_bytes_read(opening),
    )


def _bytes_read(opening: Opening) -> int:
    """The size of what the target reads: its own files, or else the checkpoint's weights."""
    if opening.exported is not None:
        files = [path for path in Path(opening.exported).rglob("*") if path.is_file()]
    else:
        files = list(Path(opening.directory).glob("*.safetensors"))
    return sum(path.stat().st_size for path in files)


def _prompt(openings: Iterable[Opening], tokens: int) -> list[int]:
    """A prompt of ids that both models have."""
    configs = [json.loads((Path(one.directory) / "config.json").read_bytes()) for one in openings]
    rows = min(config["vocab_size"] for config in configs)
    drawn = random.Random(0)
    return [drawn.randrange(rows) for _ in range(tokens)]
