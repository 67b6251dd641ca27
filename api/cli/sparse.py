"""Commands for packed weights and for models that run from them, on this machine.

`python -m secateur.sparse.commands` does their work in a process of its own, so that the CLI starts without
torch.
"""

import importlib.util
import subprocess
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from api.cli.local import child_environment, module_command
from pipeline.request.spec_files import SpecError

Model = Annotated[
    Path,
    typer.Argument(
        metavar="DIR",
        help="A pruned checkpoint, with or without `sparse/`, or a directory of packed weights.",
        exists=True,
        file_okay=False,
    ),
]


class Values(StrEnum):
    """The types of packed values."""

    FLOAT32 = "float32"
    BF16 = "bf16"
    INT8 = "int8"


PackedValues = Annotated[
    Values | None, typer.Option("--values", help="Type of packed values; by default that of the files.")
]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads; all cores.")]
MaxTokens = Annotated[int, typer.Option(min=1, help="The most tokens of an answer.")]
Temperature = Annotated[float, typer.Option(min=0, help="0 takes the likeliest token.")]
TopP = Annotated[float, typer.Option(min=0, max=1, help="Draw among the likeliest with this probability.")]
Seed = Annotated[int | None, typer.Option(help="Equal seeds give equal answers.")]


def pack(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="A pruned checkpoint.", exists=True, file_okay=False)
    ],
    out: Annotated[Path | None, typer.Argument(help="Must not exist; DIR/sparse by default.")] = None,
    values: Annotated[Values, typer.Option(help="Type of the values.")] = Values.BF16,
    group: Annotated[int | None, typer.Option(min=64, help="Columns that share a scale, for int8.")] = None,
) -> None:
    """Write a pruned checkpoint with packed weights: bits and values instead of zeros."""
    _run("pack", directory, *_given(out), "--values", values, *_options(group=group))


def unpack(
    source: Annotated[Path, typer.Argument(help="Packed weights: a directory, or one file.", exists=True)],
    out: Annotated[Path, typer.Argument(help="Must not exist.")],
    lossy: Annotated[
        bool, typer.Option("--lossy", help="Also where not every bit of the ordinary weights comes back.")
    ] = False,
) -> None:
    """Write the ordinary checkpoint of packed weights, byte by byte as it was."""
    _run("unpack", source, out, *(["--lossy"] if lossy else []))


def generate(
    directory: Model,
    prompt: Annotated[str, typer.Argument(help="The text to continue.")],
    values: PackedValues = None,
    threads: Threads = None,
    max_tokens: MaxTokens = 256,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    seed: Seed = None,
    stop: Annotated[
        list[str] | None, typer.Option(help="Text that ends the answer; may be repeated.")
    ] = None,
) -> None:
    """Continue a text with a pruned model whose linears are sparse."""
    options = _options(
        values=values, threads=threads, max_tokens=max_tokens, temperature=temperature, top_p=top_p, seed=seed
    )
    stops = [f"--stop={one}" for one in stop or []]
    _run("generate", *options, *stops, "--", directory, prompt)


def chat(
    directory: Model,
    values: PackedValues = None,
    threads: Threads = None,
    max_tokens: MaxTokens = 256,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    seed: Seed = None,
) -> None:
    """Talk to a pruned model that has a chat template, a line at a time."""
    options = _options(
        values=values, threads=threads, max_tokens=max_tokens, temperature=temperature, top_p=top_p, seed=seed
    )
    _run("chat", directory, *options)


def bench_speed(
    directory: Model,
    values: PackedValues = None,
    threads: Threads = None,
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Tokens of the prompt.")] = 128,
    generated_tokens: Annotated[int, typer.Option(min=2, help="Tokens of the answer.")] = 64,
    rounds: Annotated[int, typer.Option(min=1, help="How often both are opened.")] = 3,
) -> None:
    """Measure a pruned model with sparse linears beside the same model in transformers."""
    options = _options(
        values=values,
        threads=threads,
        prompt_tokens=prompt_tokens,
        generated_tokens=generated_tokens,
        rounds=rounds,
    )
    _run("bench-speed", directory, *options)


def serve_model(
    directory: Model,
    values: PackedValues = None,
    threads: Threads = None,
    host: Annotated[str, typer.Option(help="Address to listen on; there are no keys.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8021,
    name: Annotated[str | None, typer.Option(help="The model's name in requests.")] = None,
    max_tokens: MaxTokens = 1024,
    waiting: Annotated[int, typer.Option(min=0, help="Requests that may wait; more get 429.")] = 4,
) -> None:
    """Answer as OpenAI's API does, with one pruned model, one request at a time."""
    options = _options(
        values=values,
        threads=threads,
        host=host,
        port=port,
        name=name,
        max_tokens=max_tokens,
        waiting=waiting,
    )
    _run("serve-model", directory, *options)


def _given(path: Path | None) -> list[Path]:
    return [] if path is None else [path]


def _options(**given: str | float | None) -> list[str]:
    """The options that were given, as words of a command line."""
    return [f"--{name.replace('_', '-')}={value}" for name, value in given.items() if value is not None]


def _run(*arguments: object) -> None:
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("transformers") is None:
        raise SpecError("this needs torch and transformers on this machine: pip install 'secateur[worker]'")
    words = [str(argument) for argument in arguments]
    done = subprocess.run(
        module_command("secateur.sparse.commands", *words), env=child_environment(), check=False
    )
    raise typer.Exit(min(abs(done.returncode), 1))
