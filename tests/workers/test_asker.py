"""One process asks all tasks of a checkpoint, which is fetched and loaded once, with the same figures."""

import shutil
from pathlib import Path

import pytest

from pipeline.evaluation.task_results import TaskEvaluation
from tests.workers.stage_runs import StageRuns, include, question_file, stage_runs
from workers.context import Progress
from workers.harness.asker import Asker

TASKS = ["first", "second"]


@pytest.fixture
def runs(model: Path, tmp_path: Path) -> StageRuns:
    """A job whose dense model will be asked two tasks."""
    files = {name: question_file(name, doc_to_text=f"'{name}: {{{{q}}}}'") for name in TASKS}
    tasks = {**include(tmp_path / "tasks", **files), "tasks": TASKS, "batch_size": 2}
    return stage_runs(tmp_path, model=model, tasks=tasks).run("import_model", "check_tasks")


def figures(runs: StageRuns, name: str) -> TaskEvaluation:
    return TaskEvaluation.model_validate_json(runs.file(f"tasks:dense:{name}", "tasks", "tasks.json"))


def without_weights(runs: StageRuns) -> Path:
    """Put the blob of the weights out of reach; returns where it is now."""
    checkpoint = runs.made["import_model"]["checkpoint"]
    largest = max((file.blob for file in checkpoint.files), key=lambda blob: blob.size)
    root = Path(runs.settings.storage_url.removeprefix("file://"))
    (blob,) = (path for path in root.rglob("*") if path.is_file() and path.stat().st_size == largest.size)
    away = root.parent / "away"
    shutil.move(blob, away)
    return away


@pytest.mark.slow
def test_the_second_task_finds_the_checkpoint_loaded(runs: StageRuns) -> None:
    runs.run("tasks:dense:second")
    alone = figures(runs, "second")
    runs.asker.forget()
    runs.run("tasks:dense:first")
    without_weights(runs)
    runs.run("tasks:dense:second")
    assert figures(runs, "second") == alone
    assert figures(runs, "first").results[0].contract != alone.results[0].contract
    loads = [step for step in runs.said if isinstance(step, Progress) and step.note == "loads the checkpoint"]
    assert len(loads) == 2  # of three tasks


@pytest.mark.slow
def test_a_checkpoint_that_was_forgotten_is_fetched_again(runs: StageRuns) -> None:
    runs.run("tasks:dense:first")
    without_weights(runs)
    runs.asker = Asker()
    with pytest.raises(Exception, match="blob"):
        runs.run("tasks:dense:second")
