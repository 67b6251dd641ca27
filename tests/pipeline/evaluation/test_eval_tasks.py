"""Tasks in a spec: what may be asked, what the DAG makes of it, and what its keys depend on."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.artifacts.artifact import FileRef
from pipeline.artifacts.refs import CheckpointRef, TaskRef
from pipeline.dag.nodes import Dag, node_key
from pipeline.dag.plan import plan
from pipeline.request.prune_spec import PruneSpec
from pipeline.sources.pins import Pin, PinnedFile
from pipeline.spec.eval_tasks import SUITES, EvalTask, EvalTasks
from pipeline.storage.content import BlobRef
from tests.made_pins import made_pins

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.:()+-]{0,40}", fullmatch=True)


def spec(tasks: Any) -> PruneSpec:
    return PruneSpec.model_validate(
        {
            "model": {"source": "file:/m"},
            "prune": {"method": {"kind": "magnitude"}, "pattern": {"kind": "nm", "keep": 2, "group": 4}},
            "evaluation": {"tasks": tasks},
        }
    )


def dag(tasks: Any, *, include: tuple[PinnedFile, ...] = ()) -> Dag:
    asked = spec(tasks)
    return plan(asked, made_pins(asked, pin=lambda field: Pin(source=field.uri, files=include)))


def reference(text: str) -> FileRef:
    return FileRef(path=text, blob=BlobRef(digest=text * 64, size=1))


MADE = {
    "import_model": {"checkpoint": CheckpointRef(files=(reference("a"),))},
    "check_tasks": {"x": TaskRef(files=(reference("b"),)), "y": TaskRef(files=(reference("c"),))},
}


class TestSpec:
    """Names, defaults, refusals."""

    def test_names_and_objects_mix_and_defaults_fill_in(self) -> None:
        asked = EvalTasks.model_validate(
            {
                "tasks": ["arc_easy", {"name": "gsm8k", "num_fewshot": 8}, {"name": "piqa", "limit": 5}],
                "num_fewshot": 3,
                "limit": 50,
            }
        )
        assert asked.asked == (
            EvalTask(name="arc_easy", num_fewshot=3, limit=50),
            EvalTask(name="gsm8k", num_fewshot=8, limit=50),
            EvalTask(name="piqa", num_fewshot=3, limit=5),
        )
        assert EvalTasks.model_validate_json(asked.model_dump_json()) == asked
        assert (asked.batch_size, asked.seed) == (8, 1234)

    def test_a_suite_brings_its_few_shot_examples_and_takes_the_limit(self) -> None:
        asked = EvalTasks.model_validate(
            {"suite": "openba", "tasks": ["lambada_openai"], "num_fewshot": 2, "limit": 10}
        )
        shots = {task.name: task.num_fewshot for task in asked.asked}
        assert shots == {**SUITES["openba"], "lambada_openai": 2}
        assert shots["arc_challenge"] == 25
        assert {task.limit for task in asked.asked} == {10}
        assert asked.field_of("lambada_openai") == "spec.evaluation.tasks.tasks.0"
        assert asked.field_of("mmlu") == "spec.evaluation.tasks.suite"

    @pytest.mark.parametrize(
        ("tasks", "where", "told"),
        [
            ({}, "tasks", "name tasks, or a suite"),
            ({"tasks": []}, "tasks", "name tasks, or a suite"),
            ({"suite": "openbb"}, "tasks.suite", "openba"),
            ({"tasks": ["a", "b", "a"]}, "tasks", "tasks.2 repeats 'a' of tasks.0"),
            ({"suite": "openba", "tasks": ["mmlu"]}, "tasks", "tasks.0 'mmlu' is part of suite openba"),
            ({"tasks": ["arc_*"]}, "tasks.tasks.0.name", "full name"),
            ({"tasks": [""]}, "tasks.tasks.0.name", "full name"),
            ({"tasks": ["a,b"]}, "tasks.tasks.0.name", "full name"),
            ({"tasks": ["../a"]}, "tasks.tasks.0.name", "full name"),
            ({"tasks": [5]}, "tasks.tasks.0", "a task is a name"),
            ({"tasks": ["a"], "limit": 0}, "tasks.limit", "greater than or equal to 1"),
            ({"tasks": ["a"], "num_fewshot": -1}, "tasks.num_fewshot", "greater than or equal to 0"),
            ({"tasks": ["a"], "batch_size": "auto"}, "tasks.batch_size", "integer"),
            ({"tasks": ["a"], "include": "hub:org/x"}, "tasks.include", "s3://bucket/prefix"),
            ({"tasks": ["a"], "include": "tasks"}, "tasks.include", "a source is one of"),
            ({"tasks": ["a"], "fewshot": 5}, "tasks.fewshot", "Extra inputs"),
        ],
    )
    def test_refusals_name_the_field(self, tasks: Any, where: str, told: str) -> None:
        with pytest.raises(ValidationError) as caught:
            spec(tasks)
        (problem,) = caught.value.errors()
        assert ".".join(str(part) for part in problem["loc"]) == f"evaluation.{where}"
        assert told in str(problem)

    @given(st.lists(NAMES, min_size=1, max_size=8, unique=True), st.booleans())
    def test_order_and_names_are_kept(self, names: list[str], as_objects: bool) -> None:
        given_names = [{"name": name} for name in names] if as_objects else names
        asked = EvalTasks.model_validate({"tasks": given_names})
        assert [task.name for task in asked.asked] == names
        assert asked == EvalTasks.model_validate({"tasks": names})

    def test_a_spec_without_tasks_has_no_node_for_them(self) -> None:
        assert not [node for node in dag(None).nodes if "task" in node.id]


class TestDag:
    """One node for the names, one for each checkpoint and task."""

    def test_the_nodes_and_what_waits_for_them(self) -> None:
        graph = dag({"tasks": ["x", "y"]})
        evaluations = {f"tasks:{which}:{name}" for which in ("dense", "pruned") for name in "xy"}
        assert {node.id for node in graph.nodes if node.stage.kind == "evaluate_task"} == evaluations
        assert graph["check_tasks"].needs == frozenset()
        assert graph["tasks:dense:x"].needs == {"import_model", "check_tasks"}
        assert graph["tasks:pruned:y"].needs == {"prune", "check_tasks"}
        assert evaluations < graph["publish"].needs
        assert evaluations < graph["report"].needs
        assert graph["check_tasks"].stage.outputs == ("x", "y")
        seen: set[str] = set()
        for node in graph.nodes:
            assert node.needs <= seen
            seen.add(node.id)

    def test_the_dense_figures_of_a_task_serve_other_jobs(self) -> None:
        """Whatever else is asked, and whatever the directory holds beside what the task reads."""
        alone = dag({"tasks": ["x"]})
        file = PinnedFile(path="other.yaml", size=1, tag="sha256:0")
        among = dag({"tasks": ["y", {"name": "x"}], "include": "file:/tasks"}, include=(file,))
        assert node_key(alone["tasks:dense:x"], MADE) == node_key(among["tasks:dense:x"], MADE)
        assert node_key(alone["check_tasks"], MADE) != node_key(among["check_tasks"], MADE)

    @pytest.mark.parametrize(
        "changes",
        [{"limit": 5}, {"num_fewshot": 1}, {"batch_size": 1}, {"seed": 1}],
    )
    def test_what_changes_the_figures_changes_the_key(self, changes: dict[str, int]) -> None:
        one, other = dag({"tasks": ["x"]}), dag({"tasks": ["x"], **changes})
        assert node_key(one["tasks:dense:x"], MADE) != node_key(other["tasks:dense:x"], MADE)

    def test_another_definition_changes_the_key(self) -> None:
        node = dag({"tasks": ["x"]})["tasks:dense:x"]
        other = {**MADE, "check_tasks": {"x": MADE["check_tasks"]["y"]}}
        assert node_key(node, MADE) != node_key(node, other)
