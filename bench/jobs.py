"""The jobs that benches run on a local Ray without an API, and their results. This is no bench itself."""

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
sys.path.append(str(ROOT))  # some benches take models and servers from tests/, which is not installed
EVALUATED_CHARACTERS = 400_000  # of the encyclopedia; benches may train on the text after them


@dataclass(frozen=True)
class Ran:
    """A job that succeeded."""

    events: tuple[DriverEvent, ...]
    content: ContentStore

    @property
    def results(self) -> dict[str, NodeResult]:
        """The results by node."""
        bodies = [event.body for event in self.events]
        return {body.result.node: body.result for body in bodies if body.type == "stage.finished"}

    def read(self, node: str, artifact: str, path: str) -> bytes:
        """Read one file of a node's artifact."""
        return self.content.get_bytes(self.results[node].artifacts[artifact].file(path))

    def load(self, node: str, artifact: str, document: type[Document]) -> Document:
        """A document of what a node made."""
        return self.results[node].artifacts[artifact].load(self.content, document)

    def evaluation(self, which: str) -> EvaluationResult:
        """The evaluation of the dense, pruned or recovered model."""
        return self.load(f"evaluate:{which}", "evaluation", EvaluationResult)

    def perplexity(self, which: str) -> float:
        """The perplexity of one of these models on the only text."""
        return self.evaluation(which).perplexity[0].perplexity


def run_job(
    name: str,
    request: dict[str, Any],
    directory: Path,
    *,
    storage: str = "storage",
    here: bool = False,
    on_event: Callable[[DriverEvent, subprocess.Popen[str]], None] | None = None,
) -> Ran:
    """Run a job to its end. `NAME.yaml`, `NAME.log` and the storage are in the directory; stored stages are
    not run again.

    `here`: in one process instead of on a Ray. `on_event` is called with every event and the process. Raises
    RuntimeError when the job fails or dies.
    """
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
            if on_event is not None:
                on_event(event, process)
            if event.body.type == "attempt.failed":
                raise RuntimeError(f"{name}: {event.body.reason.message}")
    if process.returncode != 0:
        raise RuntimeError(f"{name} ended with {process.returncode}: {log.read_text()[-2000:]}")
    return Ran(tuple(events), ContentStore(open_store(f"file://{where}")))


def parser_of(description: str | None, *, quick: str) -> argparse.ArgumentParser:
    """A parser with `--quick` and `--data`, which every bench has."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument(
        "--data", type=Path, default=ROOT / ".secateur" / "demo" / "data", help="where the demo's data lies"
    )
    return parser


def calibration(data: DemoData, *, samples: int = 16, sequence_length: int = 512) -> dict[str, Any]:
    """The `calibration` of a spec: samples of C4, cut as in the papers."""
    return {
        "source": f"file:{data.calibration}",
        "samples": samples,
        "sequence_length": sequence_length,
    }


def evaluation(data: DemoData, *, windows: int = 16) -> dict[str, Any]:
    """The `evaluation` of a spec: perplexity on 512-token windows of encyclopedia articles."""
    text = {"source": f"file:{data.wiki}", "documents": "file", "characters": EVALUATED_CHARACTERS}
    return {
        "perplexity": [{**text, "name": "wiki", "sequence_length": 512, "windows": windows, "bos": "none"}]
    }
