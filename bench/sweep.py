"""The cost of a sweep of twelve members, next to its members alone, on the real 134M model.

The sweep is Wanda and RIA × uniform and OWL × 50, 60, 70 %, with `propagation: dense`: one job on a local Ray
with one worker. The time of its calibration (samples, measurements) and of its twelve masks is compared with
that of a job of one member in a storage of its own. The bound: less than 1.5 calibrations and 12 times the
masks of that job.

`--quick`: 4 samples of 256 tokens instead of 16 of 512. Exits with 1 when the bound does not hold.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from jobs import Ran, calibration, evaluation, parser_of, run_job
from workers.demo_data import DemoData, prepare_demo

SWEEP = {
    "methods": [{"kind": "wanda"}, {"kind": "ria"}],
    "allocations": [{"kind": "uniform"}, {"kind": "owl", "multiplier": 5, "spread": 0.08}],
    "sparsities": [0.5, 0.6, 0.7],
}
MEMBERS = 12
CALIBRATIONS = 1.5  # the bound


def main() -> None:
    """Print a table and one line of JSON."""
    arguments = parser_of(__doc__, quick="4 samples of 256 tokens instead of 16 of 512").parse_args()
    data = prepare_demo(arguments.data)
    samples, length = (4, 256) if arguments.quick else (16, 512)
    with tempfile.TemporaryDirectory(prefix="secateur-bench-") as name:
        directory = Path(name)
        asked = request(data, samples=samples, length=length)
        alone = costs(run_job("alone", asked, directory, storage="alone"))
        asked["spec"]["sweep"] = SWEEP
        ran = run_job("sweep", asked, directory, storage="sweep")
        sweep = costs(ran)
        first, last = ran.events[0].at, ran.events[-1].at
    assert len(sweep["masks"]) == MEMBERS, "each member makes its own masks"
    bound = CALIBRATIONS * alone["calibration"] + MEMBERS * alone["masks"][0]
    figures = {
        "alone_calibration_s": round(alone["calibration"], 2),
        "alone_masks_s": round(alone["masks"][0], 2),
        "sweep_calibration_s": round(sweep["calibration"], 2),
        "sweep_masks_s": round(sum(sweep["masks"]), 2),
        "member_masks_s": [round(seconds, 2) for seconds in sweep["masks"]],
        "sweep_s": round(sweep["calibration"] + sum(sweep["masks"]), 2),
        "bound_s": round(bound, 2),
        "members_alone_s": round(MEMBERS * (alone["calibration"] + alone["masks"][0]), 2),
        "wall_s": round((last - first).total_seconds(), 1),
    }
    for key, value in figures.items():
        print(f"{key:>20}  {value}")
    print(json.dumps(figures))
    sys.exit(0 if figures["sweep_s"] < bound else 1)


def request(data: DemoData, *, samples: int, length: int) -> dict[str, Any]:
    """The request of a job with one member."""
    half = {"kind": "unstructured", "sparsity": 0.5}
    return {
        "spec": {
            "model": {"source": f"file:{data.model}"},
            "calibration": calibration(data, samples=samples, sequence_length=length),
            "prune": {"method": {"kind": "wanda"}, "pattern": half, "propagation": "dense"},
            "evaluation": evaluation(data, windows=4),
        },
        "resources": {"workers": 1, "cpus_per_worker": 2, "memory_per_worker": "4GiB"},
    }


def costs(ran: Ran) -> dict[str, Any]:
    """The seconds of all stages before masks, and of each member's masks."""
    calibrated, masks = 0.0, []
    for node, result in ran.results.items():
        stage = node.partition("@")[0]
        if stage == "prune":
            masks.append(result.measured.seconds)
        elif stage in ("calibrate", "measure_statistics", "measure_blocks", "allocate"):
            calibrated += result.measured.seconds
    return {"calibration": calibrated, "masks": masks}


if __name__ == "__main__":
    main()
