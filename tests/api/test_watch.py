"""The watch view, and runs without a service."""

import io
import json
import random
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from api.cli import local as cli_local
from api.cli.main import app
from api.cli.watch import JobWatch, Pace, watch
from pipeline.artifacts.curve import Validation
from pipeline.job.events import (
    AttemptFailed,
    AttemptFinished,
    AttemptStarted,
    DriverEvent,
    Event,
    EventBody,
    FailureReason,
    JobSucceeded,
    Message,
    NodePlanned,
    StageProgress,
    StageRetried,
    StageStarted,
    TrainingStep,
    TrainingValidated,
)
from pipeline.storage import ContentStore, LocalStore
from tests.api.bodies import body as request_body
from tests.api.played import finished, succeeding
from tests.pipeline.report.made_learned import made_mask_step, made_training, made_validation
from tests.pipeline.report.made_recovery import made_recovery, made_step

START = datetime(2030, 1, 1, 12, tzinfo=UTC)
PLANNED = AttemptStarted(
    nodes=tuple(NodePlanned(node=n, stage=n, needs=()) for n in ("import_model", "prune", "publish"))
)


def told(*bodies: tuple[float, EventBody]) -> Iterator[Event]:
    """Events at seconds after the start."""
    for i, (second, body) in enumerate(bodies):
        yield Event(id=i + 1, job="job-1", attempt=1, at=START + timedelta(seconds=second), body=body)


def progress(done: float, total: float = 30, note: str | None = None) -> StageProgress:
    return StageProgress(node="prune", done=done, total=total, unit="block", note=note)


def shown(*bodies: tuple[float, EventBody], terminal: bool = False) -> str:
    console = Console(
        file=io.StringIO(), force_terminal=terminal, width=150, highlight=False, color_system=None
    )
    watch(told(*bodies), JobWatch("job-1"), console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_pace_counts_from_the_first_progress() -> None:
    pace = Pace(10, START, 10, START, 30)
    assert pace.per_second is None
    assert pace.remaining(START) is None
    pace = pace.after(12, 30, START + timedelta(seconds=4))
    assert pace.per_second == 0.5
    assert pace.remaining(START + timedelta(seconds=10)) == 30
    assert pace.remaining(START + timedelta(seconds=1000)) == 0
    assert pace.after(3, 30, START).per_second is None


def test_lines_tell_rate_and_remaining_time() -> None:
    text = shown(
        (0, PLANNED),
        (0, finished("import_model", cached=True)),
        (1, StageStarted(node="prune", key="0")),
        (1, progress(0)),
        (3, progress(1)),
        (11, progress(5, note="block 4: measure")),
        (12, progress(6)),
        (61, progress(30)),
        (61, finished("prune")),
    )
    lines = [line.split(maxsplit=1)[1] for line in text.splitlines()]
    assert lines == [
        "attempt 1 runs",
        "import_model      cached",
        "prune             runs",
        "prune             0/30 block",
        "prune             5/30 block, 2.0 s/block, 50 s left, block 4: measure",
        "prune             30/30 block, 2.0 s/block",
        "prune             done in 1.5 s",
    ]


def test_training_is_one_line_with_its_figures() -> None:
    record = made_step(7, made_recovery(), random.Random(0)).model_copy(
        update={"loss": 3.21, "tokens_per_second": 1234.5}
    )
    steps: list[tuple[float, EventBody]] = [
        (0, AttemptStarted(nodes=(NodePlanned(node="recover", stage="recover", needs=()),))),
        (1, StageStarted(node="recover", key="0")),
        (2, TrainingValidated(node="recover", validation=Validation(step=0, loss=3.2, perplexity=24.53))),
        (9, TrainingStep(node="recover", total_steps=400, record=record)),
        (9, StageProgress(node="recover", done=7, total=400, unit="step", note="loss 3.2100")),
    ]
    told = "7/400 step, loss 3.2100, validation perplexity 24.53, tokens/s 1,234"
    lines = [line.split(maxsplit=1)[1] for line in shown(*steps).splitlines()]
    assert lines[2:] == [
        "recover           step 0, perplexity 24.53 on held-out text",
        f"recover           {told}",
    ]
    assert told in shown(*steps, terminal=True)


def test_mask_learning_tells_its_figures_as_any_training() -> None:
    training = made_training()
    steps: list[tuple[float, EventBody]] = [
        (0, AttemptStarted(nodes=(NodePlanned(node="prune", stage="learn_masks", needs=()),))),
        (1, StageStarted(node="prune", key="0")),
        (2, TrainingValidated(node="prune", validation=made_validation(0, training))),
        (
            9,
            TrainingStep(node="prune", total_steps=300, record=made_mask_step(7, training, random.Random(0))),
        ),
        (9, StageProgress(node="prune", done=7, total=300, unit="step")),
    ]
    told = shown(*steps)
    assert "prune             step 0, perplexity 42.52 on held-out text" in told
    assert "7/300 step, loss 4.0505" in told
    assert "validation perplexity 42.52, tokens/s" in told


def test_lines_tell_trouble() -> None:
    lost = FailureReason(code="worker_lost", message="an actor died", node="prune")
    text = shown(
        (0, PLANNED),
        (1, StageRetried(node="prune", reason=lost)),
        (2, Message(level="warning", node="allocate", text="[red]markup[/red] stays text")),
        (3, AttemptFailed(reason=lost)),
        (4, JobSucceeded()),
    )
    assert "prune             continues: an actor died (at prune)" in text
    assert "allocate          warning: [red]markup[/red] stays text" in text
    assert "attempt 1 failed: an actor died" in text


def test_terminal_shows_bars_and_messages() -> None:
    text = shown(
        (0, PLANNED),
        (0, finished("import_model", cached=True)),
        (1, StageStarted(node="prune", key="0")),
        (1, progress(0)),
        (3, progress(10, note="block 9")),
        (3, Message(text="worth reading")),
        terminal=True,
    )
    assert "10/30 block, 5.0 block/s" in text
    assert "━" in text
    assert "cached  import_model" in text
    assert "waits   publish" in text
    assert "worth reading" in text


def test_a_new_attempt_begins_a_new_pace() -> None:
    view = JobWatch("job-1")
    for event in told((0, PLANNED), (1, progress(0)), (2, progress(10)), (3, PLANNED), (4, progress(10))):
        view.see(event)
    assert view._progress(view.state.stages[1], START) == "10/30 block"


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program in the place of workers.run: its output is the file `events`, its exit code in `code`."""
    program = tmp_path / "driver.py"
    program.write_text(
        "import pathlib, sys\n"
        "here = pathlib.Path(__file__).parent\n"
        "print('what a library says')\n"
        "sys.stdout.write((here / 'events').read_text())\n"
        "print('a log line', file=sys.stderr)\n"
        "sys.exit(int((here / 'code').read_text()))\n"
    )
    monkeypatch.setattr(
        cli_local, "module_command", lambda module, *rest: [sys.executable, str(program), *rest]
    )
    (tmp_path / "job.json").write_text(json.dumps(request_body()))
    return tmp_path


def write_events(directory: Path, code: int, *bodies: EventBody) -> None:
    lines = [
        DriverEvent(sequence=i + 1, at=START, body=body).model_dump_json() + "\n"
        for i, body in enumerate(bodies)
    ]
    (directory / "events").write_text("".join(lines))
    (directory / "code").write_text(str(code))


def test_run_shows_the_result_and_ends_with_the_report(driver: Path) -> None:
    storage = driver / "state" / "storage"
    made = succeeding(ContentStore(LocalStore(storage)))[:-1]
    write_events(driver, 0, PLANNED, *made, AttemptFinished())
    arguments = ["run", str(driver / "job.json"), "--storage", str(storage)]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "43.16" in result.stdout
    assert str(storage / "published") in result.stdout
    page = Path(result.stdout.splitlines()[-1])
    assert page.read_text().startswith("<!DOCTYPE html>")
    assert (driver / "state" / "run.log").read_text() == "a log line\n"


@pytest.mark.parametrize(
    ("bodies", "told_why"),
    [
        (
            [
                AttemptFailed(
                    reason=FailureReason(code="x", message="no such file", param="spec.model.source")
                )
            ],
            "error: no such file (spec.model.source)",
        ),
        ([], "error: the machine failed: the driver ended with exit code 3"),
    ],
)
def test_run_says_why_it_failed(driver: Path, bodies: list[EventBody], told_why: str) -> None:
    write_events(driver, 3, *bodies)
    arguments = ["run", str(driver / "job.json"), "--storage", str(driver / "s" / "storage")]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 1
    assert result.stderr == told_why + "\n"
    assert f", log: {driver / 's' / 'run.log'}" in result.stdout


def test_run_checks_the_spec_itself(driver: Path) -> None:
    arguments = ["run", str(driver / "job.json"), "--set", "spec.prune.method.kind=wonda"]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 2
    assert "did you mean 'wanda'?" in result.stderr
