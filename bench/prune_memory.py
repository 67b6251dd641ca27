"""Peak memory of the prune stage against the model's float32 size.

Runs a whole job on the demo model with one worker (`--quick`: 4 calibration samples instead of 16), and
reads from the prune stage's record what its actor needed at its peak, and what it needed idle, with torch
and transformers imported. The bound: peak - idle < a third of the weights in float32.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

from pipeline.events import DriverEvent
from pipeline.ledger import NodeResult
from workers.demo_data import prepare_demo

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Print a table and one line of JSON; exit 1 when the bound does not hold."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="4 calibration samples instead of 16")
    parser.add_argument(
        "--data", type=Path, default=ROOT / ".secateur" / "demo" / "data", help="where the demo's data lies"
    )
    arguments = parser.parse_args()
    prepare_demo(arguments.data)
    model = arguments.data / "smollm2-135m-instruct"
    request = {
        "spec": {
            "model": {"source": f"file:{model}"},
            "calibration": {
                "source": f"file:{arguments.data / 'calibration.txt'}",
                "samples": 4 if arguments.quick else 16,
                "sequence_length": 512,
            },
            "prune": {"method": {"kind": "wanda"}, "pattern": {"kind": "unstructured", "sparsity": 0.5}},
        },
        "resources": {"workers": 1},
    }
    with tempfile.TemporaryDirectory() as directory:
        spec = Path(directory) / "spec.yaml"
        spec.write_text(yaml.safe_dump(request))
        measured = _prune_record(spec, Path(directory) / "storage").measured
    assert measured.peak_memory_bytes is not None
    idle = measured.details["idle_memory_bytes"]
    float32 = _parameters(model) * 4
    beyond = measured.peak_memory_bytes - idle
    figures = {
        "float32_mb": round(float32 / 1e6, 1),
        "idle_mb": round(idle / 1e6, 1),
        "peak_mb": round(measured.peak_memory_bytes / 1e6, 1),
        "beyond_idle_mb": round(beyond / 1e6, 1),
        "share_of_float32": round(beyond / float32, 4),
        "samples": request["spec"]["calibration"]["samples"],  # type: ignore[index]
        "seconds": round(measured.seconds, 1),
    }
    for name, value in figures.items():
        print(f"{name:>18}  {value}")
    print(json.dumps(figures))
    sys.exit(0 if beyond < float32 / 3 else 1)


def _prune_record(spec: Path, storage: Path) -> NodeResult:
    command = [sys.executable, "-m", "workers.run", str(spec), "--storage", str(storage)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT)
    for line in done.stdout.splitlines():
        body = DriverEvent.model_validate_json(line).body
        if body.type == "stage.finished" and body.result.node == "prune":
            return body.result
    raise RuntimeError("the job ended without a prune stage")


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
