"""What task files may not do, and what becomes of tasks and models that cannot work."""

import shutil
from pathlib import Path

import datasets
import evaluate
import lm_eval.utils
import pytest
from safetensors.torch import load_file, save_file

from pipeline.errors import InvalidRequest, InvalidSpec, NumericalError, SequenceTooLong, WrongHarness
from pipeline.evaluation.task_results import TaskEvaluation
from pipeline.sources import SourceAccess
from tests.models import tiny_checkpoint
from tests.workers.stage_runs import include, question_file, stage_runs
from workers.harness.confined import confined
from workers.harness.installed import check_installed


class TestBounds:
    """What task files may not do, and what happens to those that cannot work."""

    def test_only_what_a_task_reads_is_part_of_it(self, model: Path, tmp_path: Path) -> None:
        """Another file in the directory, or another place, changes nothing; a changed question does."""
        first = include(tmp_path / "a", mine=question_file("mine"), other=question_file("other"))
        second = include(tmp_path / "b", mine=question_file("mine"))
        digests = []
        for number, given in enumerate((first, second)):
            runs = stage_runs(tmp_path / str(number), model=model, tasks={**given, "tasks": ["mine"]})
            digests.append(runs.run("check_tasks").made["check_tasks"]["mine"].digest)
        (tmp_path / "b" / "questions.jsonl").write_text('{"q": "Why?", "right": 0}\n')
        runs = stage_runs(tmp_path / "2", model=model, tasks={**second, "tasks": ["mine"]})
        digests.append(runs.run("check_tasks").made["check_tasks"]["mine"].digest)
        assert digests[0] == digests[1] != digests[2]

    def test_all_examples_of_another_split_may_be_shown(self, model: Path, tmp_path: Path) -> None:
        """As mmlu does: five examples, and five of them in front of every question."""
        splits = "{data_files: {validation: questions.jsonl, dev: questions.jsonl}}"
        task = question_file("mine", dataset_kwargs=splits, fewshot_split="dev")
        given = include(tmp_path / "tasks", mine=task)
        asked = {**given, "tasks": [{"name": "mine", "num_fewshot": 3}]}
        stage_runs(tmp_path, model=model, tasks=asked).run("check_tasks")

    @pytest.mark.parametrize(
        "template",
        [
            "'{{q.__class__.__mro__[1].__subclasses__()}}'",
            "'{{cycler.__init__.__globals__.os.popen(\"id\").read()}}'",
        ],
    )
    def test_templates_are_rendered_in_a_sandbox(self, template: str, model: Path, tmp_path: Path) -> None:
        given = include(tmp_path / "tasks", mine=question_file("mine", doc_to_text=template))
        runs = stage_runs(tmp_path, model=model, tasks={**given, "tasks": ["mine"]})
        with pytest.raises(InvalidSpec, match="SecurityError") as caught:
            runs.run("check_tasks")
        assert caught.value.param == "spec.evaluation.tasks.tasks.0"

    @pytest.mark.parametrize(
        ("changes", "told"),
        [
            ({"metric_list": "[{metric: acuracy}]"}, "metric 'acuracy', which lm-eval does not have"),
            ({"validation_split": "test"}, "cannot be loaded"),
            ({"doc_to_text": "'{{question}}'"}, "question"),
            ({"output_type": "multiple_answers"}, "output_type"),
            ({"num_fewshot": "3", "task": "mine"}, "too few for num_fewshot 3"),
        ],
    )
    def test_task_files_that_cannot_work_are_named(
        self, changes: dict[str, str], told: str, model: Path, tmp_path: Path
    ) -> None:
        given = include(tmp_path / "tasks", mine=question_file("mine", **changes))
        tasks = {
            **given,
            "tasks": [{"name": "mine", "num_fewshot": 3} if "num_fewshot" in changes else "mine"],
        }
        with pytest.raises(InvalidRequest, match=told) as caught:
            stage_runs(tmp_path, model=model, tasks=tasks).run("check_tasks")
        assert caught.value.param == "spec.evaluation.tasks.tasks.0"
        assert "mine" in caught.value.message

    def test_everything_is_put_back(self, tmp_path: Path) -> None:
        before = (datasets.load_dataset, evaluate.load, lm_eval.utils.env)
        with confined(SourceAccess(hub_endpoint="http://127.0.0.1:9"), tmp_path):
            assert (datasets.load_dataset, evaluate.load, lm_eval.utils.env) != before
        assert (datasets.load_dataset, evaluate.load, lm_eval.utils.env) == before

    def test_another_lm_eval_is_refused(self) -> None:
        with pytest.raises(WrongHarness, match=r"0\.4\.13.*install lm_eval==0\.3\.0|lm-eval 0\.3\.0"):
            check_installed("0.3.0")


class TestModels:
    """What goes wrong with models."""

    def test_likelihoods_that_are_no_numbers_fail(self, model: Path, tmp_path: Path) -> None:
        """lm-eval would count the first answer as the likeliest, and report an accuracy."""
        broken = _scaled(model, tmp_path / "broken", by=3e38)
        given = include(tmp_path / "tasks", mine=question_file("mine"))
        runs = stage_runs(tmp_path, model=broken, tasks={**given, "tasks": ["mine"]})
        with pytest.raises(NumericalError, match="not a number"):
            runs.run("import_model", "check_tasks", "tasks:dense:mine")

    def test_a_perplexity_beyond_all_numbers_fails(self, model: Path, tmp_path: Path) -> None:
        broken = _scaled(model, tmp_path / "broken", by=1e5)
        task = question_file(
            "mine",
            output_type="loglikelihood",
            doc_to_target="' an answer'",
            metric_list="[{metric: perplexity, aggregation: perplexity, higher_is_better: false}]",
        ).replace("doc_to_choice: ['yes', 'no']\n", "")
        given = include(tmp_path / "tasks", mine=task)
        runs = stage_runs(tmp_path, model=broken, tasks={**given, "tasks": ["mine"]})
        with pytest.raises(NumericalError, match="too large for a number"):
            runs.run("import_model", "check_tasks", "tasks:dense:mine")

    def test_an_answer_longer_than_the_model_is_named(self, tmp_path: Path) -> None:
        small = tiny_checkpoint("llama", tmp_path / "small")
        long = question_file("mine", doc_to_choice="['" + "lengthy answer " * 40 + "', 'no']")
        given = include(tmp_path / "tasks", mine=long)
        runs = stage_runs(tmp_path, model=small, tasks={**given, "tasks": ["mine"]})
        with pytest.raises(SequenceTooLong, match="the model takes 128") as caught:
            runs.run("import_model", "check_tasks", "tasks:dense:mine")
        assert caught.value.param == "spec.evaluation.tasks.tasks.0"

    def test_generated_answers_are_judged(self, model: Path, tmp_path: Path) -> None:
        """Free text with filters; figures are numbered after the filter."""
        generated = question_file(
            "mine",
            output_type="generate_until",
            doc_to_target="'{{right}}'",
            generation_kwargs="{until: ['.'], max_gen_toks: 4}",
            metric_list="[{metric: exact_match, aggregation: mean, higher_is_better: true}]",
            filter_list="[{name: digits, filter: [{function: regex, regex_pattern: '(\\d)'}, "
            "{function: take_first}]}]",
        ).replace("doc_to_choice: ['yes', 'no']\n", "")
        given = include(tmp_path / "tasks", mine=generated)
        runs = stage_runs(tmp_path, model=model, tasks={**given, "tasks": ["mine"], "batch_size": 2})
        runs.run("import_model", "check_tasks", "tasks:dense:mine")
        (result,) = TaskEvaluation.model_validate_json(
            runs.file("tasks:dense:mine", "tasks", "tasks.json")
        ).results
        assert [(metric.metric, metric.filter) for metric in result.metrics] == [("exact_match", "digits")]
        assert result.main == result.metrics[0]
        assert result.contract.batch_size == 2


def _scaled(model: Path, directory: Path, *, by: float) -> Path:
    """A copy of a model whose logits are so many times as large."""
    shutil.copytree(model, directory)
    weights = load_file(directory / "model.safetensors")
    weights["model.norm.weight"] *= by
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    return directory
