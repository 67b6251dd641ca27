"""`python -m secateur.sparse.commands COMMAND ...` does the work of the commands `pack`, `unpack`,
`generate`, `chat`, `bench-speed` and `serve-model` of `secateur`, in a process that may import torch.

Exit codes: 0 done, 1 refused (the reason is the last line of standard error).
"""

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from secateur.sparse.directories import FOLDER, pack_directory, unpack_directory
from secateur.sparse.errors import SparseError
from secateur.sparse.files import VALUES
from secateur.sparse.generating import Answerer, Options
from secateur.sparse.loading import load
from secateur.sparse.measuring import FORMS, Form, Measured, Spread, measured_rounds


def main() -> None:
    """Run one command."""
    parser = argparse.ArgumentParser(prog="python -m secateur.sparse.commands", description="Packed weights.")
    commands = parser.add_subparsers(required=True)
    for add in (_pack, _unpack, _generate, _chat, _bench_speed, _serve_model):
        add(commands)
    arguments = parser.parse_args()
    with _refusing():
        arguments.run(arguments)


@contextmanager
def _refusing() -> Iterator[None]:
    try:
        yield
    except (SparseError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


Commands = argparse._SubParsersAction  # argparse has no public name for it


def _pack(commands: "Commands[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("pack", help="write a checkpoint with packed weights")
    parser.add_argument("directory", type=Path)
    parser.add_argument("out", type=Path, nargs="?", help="DIRECTORY/sparse by default")
    parser.add_argument("--values", choices=VALUES, default="bf16")
    parser.add_argument("--group", type=int, help="columns that share a scale, for int8; 128 by default")
    parser.set_defaults(run=_run_pack)


def _run_pack(asked: argparse.Namespace) -> None:
    out = asked.out or asked.directory / FOLDER
    made = pack_directory(asked.directory, out, values=asked.values, group=asked.group)
    share = made.sparse_bytes / made.dense_bytes
    sys.stdout.write(
        f"{out}: {made.packed} matrices packed, {made.dense_bytes:,} bytes became {made.sparse_bytes:,} "
        f"({share:.1%})\n"
    )
    if not made.lossless:
        sys.stderr.write(
            f"note: {asked.values} does not hold every weight of this checkpoint to the bit; keep the "
            f"ordinary one, or pack with float32\n"
        )


def _unpack(commands: "Commands[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("unpack", help="write the ordinary checkpoint of a packed one")
    parser.add_argument("source", type=Path, help="a directory, or one file")
    parser.add_argument("out", type=Path, help="must not exist")
    parser.add_argument("--lossy", action="store_true")
    parser.set_defaults(run=lambda asked: unpack_directory(asked.source, asked.out, lossy=asked.lossy))


def _generate(commands: "Commands[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("generate", help="continue a text")
    _add_answering(parser)
    parser.add_argument("prompt")
    parser.set_defaults(run=_run_generate)


def _run_generate(asked: argparse.Namespace) -> None:
    answerer = _answerer(asked)
    prompt = answerer.ids_of(asked.prompt)
    sys.stdout.write(asked.prompt)
    _say(answerer, prompt, asked)


def _chat(commands: "Commands[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("chat", help="talk to a model with a chat template")
    _add_answering(parser)
    parser.set_defaults(run=_run_chat)


def _run_chat(asked: argparse.Namespace) -> None:
    answerer = _answerer(asked)
    messages: list[dict[str, str]] = []
    while True:
        sys.stderr.write("> ")
        sys.stderr.flush()
        line = sys.stdin.readline()
        if not line:
            return
        messages.append({"role": "user", "content": line.rstrip("\n")})
        said = _say(answerer, answerer.ids_of_chat(messages), asked)
        messages.append({"role": "assistant", "content": said})


def _bench_speed(commands: "Commands[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("bench-speed", help="measure a model, sparse and dense")
    _add_opening(parser)
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--generated-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.set_defaults(run=_run_bench_speed)


def _run_bench_speed(asked: argparse.Namespace) -> None:
    found: dict[Form, list[Measured]] = {form: [] for form in FORMS}
    for form, one in measured_rounds(
        asked.directory,
        values=asked.values,
        prompt_tokens=asked.prompt_tokens,
        generated_tokens=asked.generated_tokens,
        rounds=asked.rounds,
        threads=asked.threads,
    ):
        found[form].append(one)
    for line in found["sparse"][0].said:
        sys.stdout.write(f"{line}\n")
    sys.stdout.write(f"{asked.threads} threads; the median of {asked.rounds} rounds (least to most)\n")
    for form, runs in found.items():
        figures = (
            ("prompt, tokens/s", Spread.of([one.prefill for one in runs]), 1.0),
            ("generated, tokens/s", Spread.of([one.decode for one in runs]), 1.0),
            ("first token, s", Spread.of([one.first_token for one in runs]), 1.0),
            ("peak memory, MiB", Spread.of([one.memory for one in runs]), 2.0**20),
        )
        for name, spread, unit in figures:
            median, least, most = spread.median / unit, spread.least / unit, spread.most / unit
            sys.stdout.write(f"{form:13} {name:20} {median:10.2f}  ({least:.2f} to {most:.2f})\n")


def _serve_model(commands: "Commands[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("serve-model", help="answer as OpenAI's API does")
    _add_opening(parser)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8021)
    parser.add_argument("--name", help="the model's name in requests; that of its directory by default")
    parser.add_argument("--max-tokens", type=int, default=1024)
    parser.add_argument("--waiting", type=int, default=4)
    parser.set_defaults(run=_run_serve_model)


def _run_serve_model(asked: argparse.Namespace) -> None:
    import uvicorn

    from secateur.sparse.serving.app import Limits, app_for

    answerer = _answerer(asked)
    name = asked.name or asked.directory.resolve().name
    sys.stderr.write(f"{name}: http://{asked.host}:{asked.port}/v1 (no key, one request at a time)\n")
    app = app_for(answerer, name, Limits(most=asked.max_tokens, waiting=asked.waiting))
    uvicorn.run(app, host=asked.host, port=asked.port, log_level="warning")


def _add_opening(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", type=Path)
    parser.add_argument("--values", choices=VALUES)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)


def _add_answering(parser: argparse.ArgumentParser) -> None:
    _add_opening(parser)
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--top-p", type=float, default=1.0)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--stop", action="append", default=[])


def _answerer(asked: argparse.Namespace) -> Answerer:
    torch.set_num_threads(asked.threads)
    model = load(asked.directory, values=asked.values)
    for line in model.sparse_report.lines:
        sys.stderr.write(f"{line}\n")
    return Answerer.of(model, asked.directory)


def _say(answerer: Answerer, prompt: list[int], asked: argparse.Namespace) -> str:
    """Write an answer while it grows, and return it."""
    room = answerer.room(prompt)
    most = asked.max_tokens if room is None else min(asked.max_tokens, room)
    options = Options(
        most=most,
        temperature=asked.temperature,
        top_p=asked.top_p,
        seed=asked.seed,
        stop=tuple(asked.stop),
    )
    said = ""
    for piece in answerer.pieces(prompt, options):
        sys.stdout.write(piece.text)
        sys.stdout.flush()
        said += piece.text
    sys.stdout.write("\n")
    return said


if __name__ == "__main__":
    main()
