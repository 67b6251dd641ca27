"""Curves in real trackers: an MLflow store on disk, and Weights & Biases offline."""

import builtins
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.artifacts.curve import StepRecord, Validation
from pipeline.job.ledger import WorkOrder
from pipeline.request.prune_spec import JobRequest
from pipeline.request.tracking import Mlflow, Tracking, WeightsAndBiases
from tests.made_pins import made_pins
from workers.context import Note, Progress, StageContext, Step, Trained, Validated
from workers.settings import WorkerSettings
from workers.training import trackers as module
from workers.training.tracked import run_params, tracked
from workers.training.trackers import Level, Trackers, without_secrets

PARAMS = {"objective.kind": "distillation", "steps": 6, "learning_rate.peak": 1e-3}


def record(step: int) -> StepRecord:
    return StepRecord(
        step=step,
        loss=3.0 - step / 10,
        language_modelling_loss=3.1 - step / 10,
        learning_rate=1e-3,
        gradient_norm=0.5,
        tokens_per_second=1200.0,
        first_sequence=4 * (step - 1),
        end_sequence=4 * step,
        data_checksum=7,
        workers=2,
        zeros=500,
    )


class Told:
    """What trackers said."""

    def __init__(self) -> None:
        self.lines: list[tuple[Level, str]] = []

    def __call__(self, text: str, level: Level) -> None:
        self.lines.append((level, text))

    @property
    def warnings(self) -> list[str]:
        return [text for level, text in self.lines if level == "warning"]


def opened(tracking: Tracking, told: Told, *, job: str = "job-1") -> Trackers:
    return Trackers(tracking, job=job, node="recover", name="nightly", params=PARAMS, tell=told)


def train(trackers: Trackers, steps: range, status: str = "finished") -> None:
    for step in steps:
        trackers.step(record(step))
    trackers.validated(Validation(step=steps[-1], loss=2.5, perplexity=12.2))
    trackers.finish("finished" if status == "finished" else "failed")


@pytest.fixture
def store(tmp_path: Path) -> Mlflow:
    pytest.importorskip("mlflow")
    return Mlflow(tracking_uri=f"file://{tmp_path}/mlruns", experiment="recoveries")


def test_mlflow_holds_the_curves_and_a_later_attempt_goes_on_with_the_run(store: Mlflow) -> None:
    told = Told()
    train(opened(Tracking(mlflow=store), told), range(1, 5), status="failed")
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=store.tracking_uri)
    experiment = client.get_experiment_by_name("recoveries")
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.status, run.info.run_name) == ("FAILED", "nightly recover")
    train(opened(Tracking(mlflow=store), told), range(4, 7))
    train(opened(Tracking(mlflow=store), told, job="job-2"), range(1, 2))
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) == 2
    (run,) = [one for one in runs if one.data.tags["secateur.job"] == "job-1"]
    assert run.info.status == "FINISHED"
    assert run.data.params == {name: str(value) for name, value in PARAMS.items()}
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert {point.step: point.value for point in history} == {
        step: pytest.approx(record(step).loss) for step in range(1, 7)
    }
    assert run.data.metrics["train/zeros"] == 500
    assert run.data.metrics["validation/perplexity"] == 12.2
    assert "train/loss_scale" not in run.data.metrics
    assert told.warnings == []
    assert all(text.startswith("curves go to MLflow at file://") for _, text in told.lines)


def test_wandb_writes_offline_runs_of_one_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    told = Told()
    tracking = Tracking(wandb=WeightsAndBiases(mode="offline"))
    train(opened(tracking, told), range(1, 4))
    assert told.warnings == []
    (line,) = [text for _, text in told.lines]
    assert "run job-1-recover, on disk in" in line
    wandb.teardown()  # its process closes the file a little after `finish` has returned
    (written,) = tmp_path.glob("wandb/offline-run-*-job-1-recover/run-job-1-recover.wandb")
    content = written.read_bytes()
    for word in (b"train/loss", b"validation/perplexity", b"learning_rate.peak"):
        assert word in content


def test_a_missing_package_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: object, **named: object) -> object:
        if name.split(".")[0] in {"mlflow", "wandb"}:
            raise ImportError(f"No module named {name!r}")
        return real(name, *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without)
    told = Told()
    tracking = Tracking(mlflow=Mlflow(tracking_uri="http://127.0.0.1:9"), wandb=WeightsAndBiases())
    train(opened(tracking, told), range(1, 4))
    assert sorted(told.warnings) == [
        "curves are not sent to MLflow: install secateur[tracking] where the drivers run",
        "curves are not sent to Weights & Biases: install secateur[tracking] where the drivers run",
    ]


def test_a_server_that_is_away_costs_one_warning_and_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        told = Told()
        train(opened(Tracking(mlflow=Mlflow(tracking_uri=f"http://{address}")), told), range(1, 4))
    assert len(told.warnings) == 2, told.warnings
    assert told.warnings[0].startswith("MLflow took no curves; it will be tried again: MlflowException")
    assert told.warnings[1] == "MLflow has not got 4 points of the curves"


def test_wandb_without_a_key_says_where_it_belongs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    for name in ("WANDB_DIR", "HOME", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    told = Told()
    train(opened(Tracking(wandb=WeightsAndBiases()), told), range(1, 4))
    (warning,) = told.warnings
    assert warning.startswith("curves are not sent to Weights & Biases:")
    assert "WANDB_API_KEY" in warning


class Stuck:
    """A tracker that fails when told to, and hangs when told to."""

    name = "Stuck"

    def __init__(self) -> None:
        self.sent: list[int] = []
        self.failures = 0
        self.let_go = threading.Event()
        self.let_go.set()
        self.reached = threading.Event()
        self.enough = threading.Event()

    def open(self) -> str:
        return "open"

    def send(self, points: list[module.Point]) -> None:
        self.reached.set()
        self.let_go.wait()
        if self.failures:
            self.failures -= 1
            raise ConnectionError("GET https://me:pass@host/x failed\nsecond line")
        self.sent += [point.step for point in points]
        if len(self.sent) >= 250:
            self.enough.set()

    def close(self, status: str) -> None:
        self.sent.append(-1)


def test_what_could_not_be_sent_is_sent_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE_SECONDS", 0.01)
    tracker, told = Stuck(), Told()
    tracker.failures = 3
    line = module._Line(tracker, told)
    for step in range(250):
        line.put(module.Point(step, 0.0, {"a": 1.0}))
    assert tracker.enough.wait(300)
    line.end("finished")
    line.join(time.monotonic() + 300)
    assert tracker.sent == [*range(250), -1]
    assert told.warnings == [
        "Stuck took no curves; it will be tried again: ConnectionError: GET https://host/x failed"
    ]


def test_a_tracker_that_hangs_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 50)
    tracker, told = Stuck(), Told()
    tracker.let_go.clear()
    line = module._Line(tracker, told)
    line.put(module.Point(0, 0.0, {}))
    assert tracker.reached.wait(300)
    for step in range(1, 201):
        line.put(module.Point(step, 0.0, {}))
    line.end("finished")
    line.join(time.monotonic() + 0.01)
    assert told.warnings == ["Stuck took too long: the last points may be missing there"]
    tracker.let_go.set()
    line.join(time.monotonic() + 300)
    assert tracker.sent == [0, *range(151, 201), -1]  # the oldest that waited have gone
    assert told.warnings[-1] == "Stuck has not got 150 points of the curves"


def test_secrets_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "tok-123")
    text = "https://me:pass@host/x refused tok-123"
    assert without_secrets(text) == "https://host/x refused $MLFLOW_TRACKING_TOKEN"


class Broken(Exception):
    """What ends a training."""


def context(tracking: Tracking) -> StageContext:
    asked = {
        "spec": {
            "model": {"source": "file:/m"},
            "prune": {"method": {"kind": "magnitude"}, "pattern": {"kind": "nm", "keep": 2, "group": 4}},
            "recovery": {
                "text": {"source": "file:/t.txt"},
                "steps": 30,
                "objective": {"kind": "distillation"},
            },
        },
        "resources": {"workers": 2},
        "tracking": tracking.model_dump(),
    }
    request = JobRequest.model_validate(asked)
    order = WorkOrder(job="job-3", attempt=1, request=request, pins=made_pins(request.spec))
    settings = WorkerSettings(storage_url="file:///nowhere")
    return StageContext("recover", key="k", order=order, inputs={}, earlier=(), settings=settings)


def test_steps_pass_by_and_a_training_that_fails_ends_its_run_as_failed(store: Mlflow) -> None:
    told: list[Step] = [
        Progress(0, 2),
        Trained(2, record(1)),
        Validated(Validation(step=1, loss=2.0, perplexity=7.4)),
    ]

    def steps() -> Iterator[Step]:
        yield from told
        raise Broken

    passed: list[Step] = []
    around = context(Tracking(mlflow=store))
    with pytest.raises(Broken):
        passed.extend(tracked(steps(), around))  # what came before the error is there
    assert [step for step in passed if not isinstance(step, Note)] == told
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=store.tracking_uri)
    experiment = client.get_experiment_by_name("recoveries")
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.status, run.info.run_name) == ("FAILED", "job-3 recover")
    assert run.data.metrics["train/loss"] == pytest.approx(2.9)
    params = run_params(around.order.request)
    assert run.data.params == {name: str(value) for name, value in params.items()}
    assert params["recovery.objective.kind"] == "distillation"
    assert params["prune.pattern.keep"] == 2
    assert params["resources.workers"] == 2
    assert params["model.source"] == "file:/m"
    assert list(tracked(iter(told), context(Tracking()))) == told
