"""The cost of a crash: the prune stage is killed with -9 at random blocks and resumed, next to an undisturbed
one.

The job prunes the real 134M model by Wanda at 50 % on a local Ray with one worker. The driver is killed when
it reports a drawn block, and Ray dies with it; then the same job is run again on the same storage. A block's
time is that from the event before it to its own. The time of a start (to hire the worker and embed the
samples) is known from the undisturbed job and taken off for each attempt; everything else counts. The bounds:
the masks and the checkpoint have the digests of the undisturbed job, and the time is at most 5 % more. A
block that was interrupted has reported nothing, so it does not count.

`--quick`: 4 samples of 256 tokens instead of 16 of 512, one crash instead of three. The last line is JSON.
"""

import json
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from jobs import calibration, parser_of, run_job
from pipeline.job.events import DriverEvent
from workers.demo_data import prepare_demo

BLOCKS = 30
BOUND = 0.05


def main() -> None:
    """Print a table and one line of JSON; exit 1 when a bound does not hold."""
    parser = parser_of(__doc__, quick="4 samples of 256 tokens and one death")
    parser.add_argument("--seed", type=int, default=0, help="of the blocks at which it dies")
    arguments = parser.parse_args()
    data = prepare_demo(arguments.data)
    samples, length, deaths = (4, 256, 1) if arguments.quick else (16, 512, 3)
    request = {
        "spec": {
            "model": {"source": f"file:{data.model}"},
            "calibration": calibration(data, samples=samples, sequence_length=length),
            "prune": {"method": {"kind": "wanda"}, "pattern": {"kind": "unstructured", "sparsity": 0.5}},
        },
        "resources": {"workers": 1, "cpus_per_worker": 2, "memory_per_worker": "4GiB"},
    }
    drawn = sorted(random.Random(arguments.seed).sample(range(2, BLOCKS - 1), deaths))
    with tempfile.TemporaryDirectory(prefix="secateur-bench-") as name:
        directory = Path(name)
        undisturbed, digests = run_through(request, directory, "undisturbed", deaths_at=[])
        disturbed, own = run_through(request, directory, "disturbed", deaths_at=drawn)
    start = undisturbed[0].blocks[1] - statistics.median(undisturbed[0].blocks.values())
    whole = sum(undisturbed[0].blocks.values()) - start
    taken = sum(sum(attempt.blocks.values()) - start for attempt in disturbed)
    figures = {
        "deaths_at": drawn,
        "blocks_done": [len(attempt.blocks) for attempt in disturbed],
        "start_s": round(start, 2),
        "undisturbed_s": round(whole, 2),
        "disturbed_s": round(taken, 2),
        "ratio": round(taken / whole, 4),
        "digests_equal": own == digests,
    }
    for key, value in figures.items():
        print(f"{key:>16}  {value}")
    print(json.dumps(figures))
    sys.exit(0 if own == digests and taken / whole <= 1 + BOUND else 1)


class Attempt:
    """One attempt. `blocks`: seconds from one finished block of the prune stage to the next, by the number of
    finished blocks."""

    def __init__(self, *, dies_at: int | None) -> None:
        self._dies_at = dies_at
        self._before: datetime | None = None
        self.died = False
        self.blocks: dict[int, float] = {}

    def on_event(self, event: DriverEvent, process: subprocess.Popen[str]) -> None:
        """Record a block's time, and kill the driver at the drawn block."""
        body = event.body
        if body.type == "stage.started" and body.node == "prune":
            self._before = event.at
        if body.type != "stage.progress" or body.node != "prune" or self._before is None or self.died:
            return
        self.blocks[int(body.done)] = (event.at - self._before).total_seconds()
        self._before = event.at
        if self._dies_at is not None and body.done >= self._dies_at:
            self.died = True
            process.kill()


def run_through(
    request: dict[str, Any], directory: Path, name: str, *, deaths_at: Sequence[int]
) -> tuple[list[Attempt], dict[str, str]]:
    """All attempts of a job, and the digests of the prune stage's artifacts."""
    attempts = []
    for dies_at in (*deaths_at, None):
        attempts.append(Attempt(dies_at=dies_at))
        try:
            ran = run_job(name, request, directory, storage=name, on_event=attempts[-1].on_event)
        except RuntimeError:
            if not attempts[-1].died:
                raise
    made = ran.results["prune"].artifacts
    return attempts, {artifact: ref.digest for artifact, ref in made.items()}


if __name__ == "__main__":
    main()
