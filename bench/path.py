"""What storage costs beside the computing: the demo's model is pruned on a local directory and on S3.

The S3 server is a real one behind a proxy with 20 ms for a round trip and 100 MB/s per connection. Both prune
by turns, each in a process of its own with an empty cache, in one process without Ray: Wanda 50 %, random
tokens. Time is that from the start of the walk to the assembled checkpoint. `computing` is the time of the
calls that compute; `waiting for reads` and `for writes` that of the calls that load a block and that ask for
the record of a stored one; `other` is what is left. Orchestration is all but the computing.

`--quick`: 4 samples of 256 tokens instead of 16 of 512, one round instead of three. The last line is JSON;
it exits with 1 when S3 takes more than 1.3 times as long as the directory.

Shape legend: L tokens.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch

from jobs import ROOT, parser_of
from pipeline.allocations import Uniform
from pipeline.artifacts.refs import CheckpointRef
from pipeline.blocks.crew import Parcel, Pending
from pipeline.blocks.local import LocalCrew
from pipeline.blocks.pruning import Pruning, prune_blocks, pruned_checkpoint, pruned_keep
from pipeline.blocks.steps import run_through
from pipeline.blocks.worker import SweepWorker
from pipeline.checkpoint.prunable import prunable_weights
from pipeline.methods.wanda import Wanda
from pipeline.spec.patterns import Unstructured
from pipeline.storage.progress import StageProgress
from pipeline.tensor.statistics import Gram
from tests.checkpoints import imported
from tests.servers import seaweedfs
from tests.slow_network import slow_network
from workers.demo_data import prepare_demo
from workers.settings import WorkerSettings

P = ParamSpec("P")
Answer = TypeVar("Answer")
BUCKET = "bench"
LATENCY, BYTES_PER_SECOND = 0.02, 100e6
BOUND = 1.3
READS, WRITES = {"load"}, {"stored", "outer", "begin_snapshot", "snapshot", "end_snapshot"}


def main() -> None:
    """Print a table and one line of JSON; exit 1 when the bound does not hold."""
    parser = parser_of(__doc__, quick="4 samples of 256 tokens, one round")
    parser.add_argument("--rounds", type=int, default=None, help="how often both prune; medians are shown")
    parser.add_argument("--threads", type=int, default=2, help="of the process that prunes")
    parser.add_argument("--one", nargs=3, metavar=("CHECKPOINT", "SAMPLES", "LENGTH"), help="used by itself")
    arguments = parser.parse_args()
    if arguments.one:
        checkpoint = CheckpointRef.model_validate_json(Path(arguments.one[0]).read_text())
        print(json.dumps(prune(checkpoint, samples=int(arguments.one[1]), length=int(arguments.one[2]))))
        return
    samples, length = (4, 256) if arguments.quick else (16, 512)
    data = prepare_demo(arguments.data)
    with (
        tempfile.TemporaryDirectory(prefix="secateur-bench-") as name,
        places(data.model, Path(name)) as found,
    ):
        rounds: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for _ in range(arguments.rounds or (1 if arguments.quick else 3)):
            for place, environment in found.items():
                given = {"OMP_NUM_THREADS": str(arguments.threads), **environment}
                rounds[place].append(_alone(Path(name), given, samples=samples, length=length))
    figures = {place: _together(measured) for place, measured in rounds.items()}
    equal = len({one["digest"] for measured in rounds.values() for one in measured}) == 1
    ratio = figures["S3"]["seconds"] / figures["directory"]["seconds"]
    print(
        f"{'':<12}{'seconds':>9}{'computing':>11}{'for reads':>11}{'for writes':>12}{'other':>8}{'beside':>8}"
    )
    for place, one in figures.items():
        print(
            f"{place:<12}{one['seconds']:>9.2f}{one['computing']:>11.2f}{one['reads']:>11.2f}"
            f"{one['writes']:>12.2f}{one['other']:>8.2f}{one['orchestration']:>8.1%}"
        )
    print(f"S3 takes {ratio:.2f} times as long (bound {BOUND}); equal checkpoints: {equal}")
    print(json.dumps({**figures, "ratio": round(ratio, 3), "equal": equal}))
    sys.exit(0 if ratio <= BOUND and equal else 1)


@contextmanager
def places(model: Path, directory: Path) -> Iterator[dict[str, dict[str, str]]]:
    """The model imported into a directory and into S3: the environment of a worker for each place."""
    content, checkpoint = imported(model, directory / "storage")
    (directory / "checkpoint.json").write_text(checkpoint.model_dump_json())
    with seaweedfs(directory / "seaweedfs") as near:
        near.make_bucket(BUCKET)
        target = WorkerSettings(storage_url=f"s3://{BUCKET}", s3=near.options, cache_bytes=0).content()
        for found in content.store.list("blobs/"):
            target.store.put(found.key, content.store.get(found.key))
        with slow_network(near, latency=LATENCY, bytes_per_second=BYTES_PER_SECOND) as far:
            yield {
                "directory": {"SECATEUR_STORAGE_URL": f"file://{directory}/storage"},
                "S3": {
                    "SECATEUR_STORAGE_URL": f"s3://{BUCKET}",
                    "SECATEUR_S3_ENDPOINT_URL": far.endpoint,
                    "SECATEUR_S3_ACCESS_KEY": far.access_key,
                    "SECATEUR_S3_SECRET_KEY": far.secret_key,
                },
            }


def prune(checkpoint: CheckpointRef, *, samples: int, length: int) -> dict[str, Any]:
    """Prune in this process, and return the seconds of all kinds of calls."""
    content = WorkerSettings().content()
    generator = torch.Generator().manual_seed(0)
    tokens = [torch.randint(0, 40_000, (length,), generator=generator) for _ in range(samples)]
    weights = prunable_weights(content, checkpoint)
    plan = Uniform().plan(Unstructured(sparsity=0.5), weights, measured=())
    crew = TimedCrew(content, checkpoint, tokens)
    pruning = Pruning(method=Wanda(), plan=plan, propagation="pruned", samples=samples)
    crew.seconds.clear()
    began = time.monotonic()
    loop = prune_blocks(crew, pruning, progress=StageProgress(content, os.urandom(32).hex()))
    pruned = run_through(loop)
    made = pruned_checkpoint(content, checkpoint, pruned)
    pruned_keep(content, pruned)
    whole = time.monotonic() - began
    for blob in {block.weights.file.blob for block in pruned.blocks}:
        content.store.delete(content.key(blob))  # so that the next round stores them again
    content.store.delete(content.key(pruned.outer.file.blob))
    reads = sum(crew.seconds[name] for name in READS)
    writes = sum(crew.seconds[name] for name in WRITES)
    computing = sum(crew.seconds.values()) - reads - writes
    return {
        "seconds": whole,
        "computing": computing,
        "reads": reads,
        "writes": writes,
        "other": whole - computing - reads - writes,
        "digest": made.digest,
    }


class TimedCrew(LocalCrew):
    """A crew of one worker that adds up the seconds of its calls by the method's name."""

    def __init__(self, *args: Any) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        super().__init__(*args)

    def ask(
        self,
        worker: int,
        method: Callable[Concatenate[SweepWorker, P], Answer],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Pending[Answer]:
        """See LocalCrew."""
        began = time.monotonic()
        answer = super().ask(worker, method, *args, **kwargs)
        self.seconds[method.__name__] += time.monotonic() - began
        return answer

    def sum_up(self, give: Callable[..., Gram], *args: Any, **kwargs: Any) -> None:
        """See LocalCrew."""
        began = time.monotonic()
        super().sum_up(give, *args, **kwargs)
        self.seconds[give.__name__] += time.monotonic() - began

    def spread(self, give: Callable[..., Mapping[str, Parcel]], *args: Any, **kwargs: Any) -> None:
        """See LocalCrew."""
        began = time.monotonic()
        super().spread(give, *args, **kwargs)
        self.seconds[give.__name__] += time.monotonic() - began


def _alone(directory: Path, environment: dict[str, str], *, samples: int, length: int) -> dict[str, Any]:
    """Prune in a fresh process with an empty cache."""
    command = [
        sys.executable,
        __file__,
        "--one",
        str(directory / "checkpoint.json"),
        str(samples),
        str(length),
    ]
    with tempfile.TemporaryDirectory(dir=directory) as cache:
        own = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
        own |= {"SECATEUR_CACHE_DIR": cache, "OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "10000"}
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT, env=own)
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(measured, file=sys.stderr, flush=True)
    return measured


def _together(rounds: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The medians of all rounds, and the share of the time beside the computing."""
    names = ("seconds", "computing", "reads", "writes", "other")
    found = {name: round(statistics.median(one[name] for one in rounds), 3) for name in names}
    found["orchestration"] = round((found["seconds"] - found["computing"]) / found["computing"], 4)
    return found


if __name__ == "__main__":
    main()
