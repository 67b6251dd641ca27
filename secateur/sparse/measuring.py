"""The speed and memory of a model, sparse and dense, each in processes of their own.

python -m secateur.sparse.measuring < {"directory": ..., "form": "sparse", "values": null, ...}
"""

import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from secateur.sparse.errors import SparseError
from secateur.sparse.files import Values

Form = Literal["sparse", "dense kernels", "torch"]
FORMS: tuple[Form, ...] = get_args(Form)
ROOT = str(Path(__file__).resolve().parents[2])
WARM_UP = 2  # tokens that are generated before the clock starts
SECONDS = 3600.0
SAID = 2000  # last characters of standard error that an error shows


@dataclass(frozen=True)
class Measured:
    """One run. `prefill`, `decode`: tokens a second of the prompt and of the answer. `first_token`: seconds
    until the first token. `memory`: the largest memory of the process, in bytes, with mapped files. `said`:
    what became sparse."""

    prefill: float
    decode: float
    first_token: float
    memory: float
    said: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to run. `form`: `dense kernels` are of the same make and type as the sparse ones; `torch` is
    transformers' own model in float32."""

    directory: str
    form: Form
    values: Values | None
    prompt_tokens: int
    generated_tokens: int
    threads: int


@dataclass(frozen=True)
class Spread:
    """The median of several runs, with the least and the most."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, found: list[float]) -> "Spread":
        """That of some figures."""
        return cls(statistics.median(found), min(found), max(found))


def measured_rounds(
    directory: Path,
    *,
    values: Values | None,
    prompt_tokens: int,
    generated_tokens: int,
    rounds: int,
    threads: int,
) -> Iterator[tuple[Form, Measured]]:
    """Run all forms in turn, each in a fresh process, and the next round in the other order, so that a
    machine that becomes slower meanwhile slows all. Raises SparseError for a model that does not run."""
    for i in range(rounds):
        for form in FORMS[:: -1 if i % 2 else 1]:
            asked = Request(
                directory=str(directory),
                form=form,
                values=values,
                prompt_tokens=prompt_tokens,
                generated_tokens=generated_tokens,
                threads=threads,
            )
            yield form, _in_a_fresh_process(asked)


def measured_here(asked: Request) -> Measured:
    """Open a model in this process, and run it on the clock."""
    import torch
    from transformers import AutoModelForCausalLM

    from secateur.sparse.generating import Answerer, Options
    from secateur.sparse.loading import Kernels, load

    torch.set_num_threads(asked.threads)
    if asked.form != "torch":
        kernels: Kernels = "sparse" if asked.form == "sparse" else "dense"
        model = load(asked.directory, values=asked.values, kernels=kernels)
        said = model.sparse_report.lines
    else:
        model, said = AutoModelForCausalLM.from_pretrained(asked.directory, dtype=torch.float32).eval(), ()
    model.generation_config.eos_token_id = (
        None  # a token that would end the answer is no reason to end the clock
    )
    answerer = Answerer(model, None)
    drawn = random.Random(0)
    prompt = [drawn.randrange(model.config.vocab_size) for _ in range(asked.prompt_tokens)]
    for _ in answerer.tokens(prompt, Options(most=WARM_UP)):
        pass
    started = time.perf_counter()
    arrived = [time.perf_counter() for _ in answerer.tokens(prompt, Options(most=asked.generated_tokens))]
    first = arrived[0] - started
    return Measured(
        prefill=asked.prompt_tokens / first,
        decode=(asked.generated_tokens - 1) / (arrived[-1] - arrived[0]),
        first_token=first,
        memory=float(peak_memory()),
        said=tuple(said),
    )


def peak_memory() -> int:
    """The largest memory of this process so far, in bytes."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def _in_a_fresh_process(asked: Request) -> Measured:
    done = subprocess.run(
        [sys.executable, "-m", "secateur.sparse.measuring"],
        input=json.dumps(asdict(asked)),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env={**os.environ, "PYTHONPATH": ROOT, "OMP_NUM_THREADS": str(asked.threads)},
        check=False,
    )
    if done.returncode:
        raise SparseError(f"the {asked.form} model does not run: {done.stderr.strip()[-SAID:]}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return Measured(**{**answer, "said": tuple(answer["said"])})


def main() -> None:
    """Answer one request with a line of JSON on standard output."""
    asked = Request(**json.load(sys.stdin))
    sys.stdout.write(json.dumps(asdict(measured_here(asked))) + "\n")


if __name__ == "__main__":
    main()
