"""What an evaluation keeps of each document, and the contract of its figures, from real lm-eval."""

from pathlib import Path

import pytest

from pipeline.evaluation.task_results import TaskEvaluation
from pipeline.evaluation.task_samples import Judged, TaskSamples, paired_strata
from tests.workers.stage_runs import StageRuns, include, question_file, stage_runs

SAME_QUESTIONS = {"metric_list": "[{metric: acc}, {metric: brier_score}]"}


def documents(runs: StageRuns, node: str) -> Judged:
    return Judged(
        TaskEvaluation.model_validate_json(runs.file(node, "tasks", "tasks.json")),
        TaskSamples.model_validate_json(runs.file(node, "tasks", "samples.json")),
    )


@pytest.fixture(scope="module")
def judged(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Judged:
    """Two question sets and their group, with a mean by size."""
    root = tmp_path_factory.mktemp("samples")
    tasks = include(
        root / "tasks",
        first=question_file("first", **SAME_QUESTIONS),
        second=question_file("second", doc_to_text="'Say: {{q}}'"),
        both="group: both\ntask: [first, second]\naggregate_metric_list: [{metric: acc}]\n",
    )
    runs = stage_runs(root, model=model, tasks={**tasks, "tasks": ["both"], "limit": 2})
    runs.run("import_model", "check_tasks", "tasks:dense:both")
    return documents(runs, "tasks:dense:both")


def test_there_is_a_value_for_each_document_and_its_mean_is_the_figure(judged: Judged) -> None:
    samples = judged.samples
    assert samples is not None
    assert samples.groups == {"both": ("first", "second")}
    by_task = {leaf.task: leaf for leaf in samples.leaves}
    assert by_task["first"].documents == by_task["second"].documents
    assert [len(digest) for digest in by_task["first"].documents] == [16, 16]
    for result in judged.evaluation.results:
        for metric in result.metrics if not result.aggregate else ():
            kept = by_task[result.task].of(metric)
            if metric.metric == "acc":
                assert kept is not None
                assert sum(kept) / len(kept) == pytest.approx(metric.value)
            elif metric.metric == "brier_score":  # its values are no numbers
                assert kept is None


def test_figures_that_are_means_can_be_paired_their_group_s_too(judged: Judged) -> None:
    found = {
        (result.task, metric.metric): [stratum.weight for stratum in strata]
        for result, metric, strata in paired_strata(judged, judged)
    }
    assert found == {
        ("both", "acc"): [0.5, 0.5],
        ("first", "acc"): [1.0],
        ("second", "acc"): [1.0],
        **{(name, "acc_norm"): [1.0] for name in ("second",)},
    }


def test_the_contract_names_documents_split_and_device(judged: Judged) -> None:
    contracts = {result.task: result.contract for result in judged.evaluation.results}
    assert contracts["first"].split == "validation"
    assert contracts["first"].dataset == "json"
    assert contracts["first"].device == contracts["both"].device == "cpu"
    assert contracts["first"].documents_digest == contracts["second"].documents_digest is not None
    assert contracts["both"].documents_digest is None


def test_results_of_earlier_versions_are_read(judged: Judged) -> None:
    new = {"dataset", "split", "documents_digest", "device"}
    earlier = judged.evaluation.model_dump(mode="json")
    for result in earlier["results"]:
        result["contract"] = {name: value for name, value in result["contract"].items() if name not in new}
    read = TaskEvaluation.model_validate(earlier)
    assert read.results[0].contract.device is None
    assert read.results[0].metrics == judged.evaluation.results[0].metrics
