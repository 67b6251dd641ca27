"""Measures how fast a target is with the dense and with the final model, in one run."""

import json
import random
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

from pipeline.artifacts.serving import Served, Serving, Spread
from pipeline.spec.targets import Target
from workers.targets.consumer import Opening
from workers.targets.opened import ask

Which = Literal["dense", "final", "dense_kernels"]
Openings = Mapping[Which, Opening]


class Clock(BaseModel):
    """Seconds, as `Timing` of workers/targets/consumer.py."""

    first_token: float
    decode: float


class Timed(BaseModel):
    """The answer of one fresh process."""

    version: str
    timing: Clock
    peak_memory_bytes: int


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


def serving_of(
    openings: Openings, target: Target, rounds: Iterable[tuple[Which, Timed]], *, machine: str
) -> Serving:
    """The figures of all rounds."""
    timed: dict[Which, list[Timed]] = {which: [] for which in openings}
    for which, one in rounds:
        timed[which].append(one)
    some = openings["final"]
    return Serving(
        target=target.kind,
        version=timed["final"][0].version,
        prompt_tokens=target.prompt_tokens,
        generated_tokens=target.generated_tokens,
        rounds=target.rounds,
        threads=some.threads,
        gpus=some.gpus,
        machine=machine,
        dense=_served(timed["dense"], openings["dense"], target),
        final=_served(timed["final"], some, target),
        dense_kernels=_served(timed["dense_kernels"], some, target) if "dense_kernels" in timed else None,
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
