"""What the benches share: jobs on a local Ray without an API, and what came of them. No bench itself."""

import argparse
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline.artifacts.artifact import Document
from pipeline.job.events import DriverEvent
from pipeline.job.ledger import NodeResult
from pipeline.spec.evaluation import EvaluationResult
from pipeline.storage import ContentStore, open_store
from workers.demo_data import DemoData

ROOT = Path(__file__).resolve().parent.parent
JUDGED_CHARACTERS = 400_000  # of the encyclopedia; what comes after them may be trained on


@dataclass(frozen=True)
class Ran:
    """A job that succeeded."""

    events: tuple[DriverEvent, ...]
    content: ContentStore

    @property
    def results(self) -> dict[str, NodeResult]:
        """By node."""
        bodies = [event.body for event in self.events]
        return {body.result.node: body.result for body in bodies if body.type == "stage.finished"}

    def read(self, node: str, artifact: str, path: str) -> bytes:
        """One file of what a node made."""
        return self.content.get_bytes(self.results[node].artifacts[artifact].file(path))

    def load(self, node: str, artifact: str, document: type[Document]) -> Document:
        """A document of what a node made."""
        return self.results[node].artifacts[artifact].load(self.content, document)

    def evaluation(self, which: str) -> EvaluationResult:
        """Of the dense, pruned or recovered model."""
        return self.load(f"evaluate:{which}", "evaluation", EvaluationResult)

    def perplexity(self, which: str) -> float:
        """Of one of them on the only text."""
        return self.evaluation(which).perplexity[0].perplexity


def run_job(
    name: str,
    request: dict[str, Any],
    directory: Path,
    *,
    storage: str = "storage",
    here: bool = False,
    told: Callable[[DriverEvent, subprocess.Popen[str]], None] | None = None,
) -> Ran:
    """`NAME.yaml`, `NAME.log` and the storage lie in the directory; what is stored is not made again. `here`:
    in one process instead of on a Ray. `told` hears every event when it comes, and has the process. Raises
    RuntimeError when the job fails or dies."""
    spec, log = directory / f"{name}.yaml", directory / f"{name}.log"
    spec.write_text(yaml.safe_dump(request))
    where = directory / storage
    command = [sys.executable, "-m", "workers.run", str(spec), "--storage", str(where)]
    command += ["--here"] if here else []
    events = []
    with (
        log.open("w") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=ROOT) as process,
    ):
        for line in process.stdout or ():
            event = DriverEvent.model_validate_json(line)
            events.append(event)
            if told is not None:
                told(event, process)
            if event.body.type == "attempt.failed":
                raise RuntimeError(f"{name}: {event.body.reason.message}")
    if process.returncode != 0:
        raise RuntimeError(f"{name} ended with {process.returncode}: {log.read_text()[-2000:]}")
    return Ran(tuple(events), ContentStore(open_store(f"file://{where}")))


def parser_of(description: str | None, *, quick: str) -> argparse.ArgumentParser:
    """With `--quick` and `--data`, which every bench has."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument(
        "--data", type=Path, default=ROOT / ".secateur" / "demo" / "data", help="where the demo's data lies"
    )
    return parser


def calibration(data: DemoData, *, samples: int = 16, sequence_length: int = 512) -> dict[str, Any]:
    """The papers' cut of C4."""
    return {
        "source": f"file:{data.calibration}",
        "samples": samples,
        "sequence_length": sequence_length,
    }


def judged(data: DemoData, *, windows: int = 16) -> dict[str, Any]:
    """Perplexity on 512-token windows of encyclopedia articles."""
    text = {"source": f"file:{data.wiki}", "documents": "file", "characters": JUDGED_CHARACTERS}
    return {
        "perplexity": [{**text, "name": "wiki", "sequence_length": 512, "windows": windows, "bos": "none"}]
    }
