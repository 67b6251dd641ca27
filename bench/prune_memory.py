"""The peak memory of the prune stage, compared with the model's size in float32.

This runs a whole job on the demo model with one worker (`--quick`: 4 calibration samples instead of 16). It
reads from the prune stage's record the peak memory of its actor, and the memory of an idle actor with torch
and transformers imported. The bound: peak - idle < a third of the weights in float32.
"""

import json
import sys
import tempfile
from pathlib import Path

from jobs import calibration, parser_of, run_job
from workers.demo_data import prepare_demo


def main() -> None:
    """Print a table and one line of JSON; exit 1 when the bound does not hold."""
    arguments = parser_of(__doc__, quick="4 calibration samples instead of 16").parse_args()
    data = prepare_demo(arguments.data)
    samples = 4 if arguments.quick else 16
    request = {
        "spec": {
            "model": {"source": f"file:{data.model}"},
            "calibration": calibration(data, samples=samples),
            "prune": {"method": {"kind": "wanda"}, "pattern": {"kind": "unstructured", "sparsity": 0.5}},
        },
        "resources": {"workers": 1},
    }
    with tempfile.TemporaryDirectory(prefix="secateur-bench-") as directory:
        measured = run_job("prune", request, Path(directory)).results["prune"].measured
    assert measured.peak_memory_bytes is not None
    idle = measured.details["idle_memory_bytes"]
    float32 = _parameters(data.model) * 4
    beyond = measured.peak_memory_bytes - idle
    figures = {
        "float32_mb": round(float32 / 1e6, 1),
        "idle_mb": round(idle / 1e6, 1),
        "peak_mb": round(measured.peak_memory_bytes / 1e6, 1),
        "beyond_idle_mb": round(beyond / 1e6, 1),
        "share_of_float32": round(beyond / float32, 4),
        "samples": samples,
        "seconds": round(measured.seconds, 1),
    }
    for name, value in figures.items():
        print(f"{name:>18}  {value}")
    print(json.dumps(figures))
    sys.exit(0 if beyond < float32 / 3 else 1)


def _parameters(model: Path) -> int:
    total = 0
    for file in model.glob("*.safetensors"):
        with file.open("rb") as stream:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        for name, entry in header.items():
            if name != "__metadata__":
                count = 1
                for extent in entry["shape"]:
                    count *= extent
                total += count
    return total


if __name__ == "__main__":
    main()
