"""Tasks in vLLM: the tokens are cut and counted as for transformers, and the real one agrees with it."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lm_eval.api.instance import Instance
from transformers import AutoModelForCausalLM

from pipeline.errors import InvalidSpec, TargetFailed, WorkerLost
from pipeline.evaluation.task_results import TaskEvaluation
from tests.models import tiny_checkpoint, tiny_config, tiny_tokenizer
from tests.workers.stage_runs import include, question_file, stage_runs
from workers.harness.model import TellingModel
from workers.harness.vllm_model import VllmModel

VLLM = os.environ.get("SECATEUR_VLLM_PYTHON", "")
LONG = "the apple trees of winter " * 60  # more than the positions of the model


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 128 positions."""
    return tiny_checkpoint("llama", tmp_path_factory.mktemp("models") / "short")


@pytest.fixture(scope="module")
def both(short: Path) -> Iterator[tuple[TellingModel, VllmModel]]:
    """The same checkpoint in this process and in another one, with equally long inputs."""
    here = TellingModel(pretrained=str(short), dtype="float32", batch_size=2, device="cpu", max_length=126)
    there = opened(short)
    yield here, there
    there.close()


def opened(model: Path, **changes: Any) -> VllmModel:
    given = {"child": "tests.workers.vllm_stand_in", "python": "", **changes}
    return VllmModel(str(model), dtype="float32", gpus=0, threads=1, batch_size=2, bos=False, **given)


def asked(kind: Any, *arguments: tuple[Any, ...]) -> list[Instance]:
    return [Instance(kind, {}, one, i) for i, one in enumerate(arguments)]


def test_likelihoods_are_those_of_transformers(both: tuple[TellingModel, VllmModel]) -> None:
    """Questions that are empty, end in a space, and are too long; an answer of one token, and a long one."""
    requests = asked(
        "loglikelihood",
        ("She cuts the", " branches"),
        ("", "The gardener walks"),
        ("In autumn ", "the apples are fewer"),
        (LONG, " and his neighbour counts"),
        ("Both", f" {LONG[:200]}"),
    )
    here, there = (one.loglikelihood(requests) for one in both)
    assert [likelihood for likelihood, _ in there] == pytest.approx([one for one, _ in here], abs=1e-4)
    assert [greedy for _, greedy in there] == [greedy for _, greedy in here]
    assert there[3][0] < -1


def test_windows_of_a_long_text_are_those_of_transformers(both: tuple[TellingModel, VllmModel]) -> None:
    requests = asked("loglikelihood_rolling", ("A good cut is clean.",), (LONG,))
    here, there = (one.loglikelihood_rolling(requests) for one in both)
    assert there == pytest.approx(here, abs=1e-3)


def test_answers_end_where_the_task_says(both: tuple[TellingModel, VllmModel]) -> None:
    free = both[1].generate_until(asked("generate_until", ("What is left", {"max_gen_toks": 12})))[0]
    middle = free[len(free) // 2 :][:3]
    requests = asked(
        "generate_until",
        ("What is left", {"max_gen_toks": 12, "until": [middle]}),
        (LONG, {"max_gen_toks": 5, "do_sample": False}),
    )
    here, there = (one.generate_until(requests) for one in both)
    assert there == here
    assert there[0] == free[: free.index(middle)]


def test_settings_that_vllm_would_not_follow_are_refused(both: tuple[TellingModel, VllmModel]) -> None:
    request = asked("generate_until", ("What", {"max_gen_toks": 5, "num_beams": 4}))
    with pytest.raises(InvalidSpec, match=r"num_beams.*use engine transformers"):
        both[1].generate_until(request)


def test_a_process_that_ends_is_named_with_its_last_words(short: Path) -> None:
    with pytest.raises(TargetFailed, match=r"(?s)exit code 1: .*No module named 'vllm'"):
        opened(short, child="workers.harness.vllm_child")
    with pytest.raises(TargetFailed, match=r"no /nowhere/python; correct SECATEUR_VLLM_PYTHON"):
        opened(short, python="/nowhere/python")
    killed = opened(short)
    killed._vllm._process.kill()
    with pytest.raises(WorkerLost, match="exit code -9"):
        killed.loglikelihood(asked("loglikelihood", ("She", " cuts")))


@pytest.mark.skipif(not VLLM, reason="needs SECATEUR_VLLM_PYTHON, a Python that has vLLM")
def test_the_real_one_gives_the_figures_of_transformers(tmp_path: Path) -> None:
    """With heads of 64 channels: on CPUs, vLLM has no kernel for smaller ones."""
    model, config, found = tmp_path / "model", tiny_config("llama"), {}
    config.head_dim = 64
    AutoModelForCausalLM.from_config(config).save_pretrained(model)
    tiny_tokenizer("llama").save_pretrained(model)
    for engine in ("transformers", "vllm"):
        root = tmp_path / engine
        root.mkdir()
        tasks = {**include(root / "tasks", first=question_file("first")), "tasks": ["first"]}
        runs = stage_runs(root, model=model, tasks={**tasks, "engine": engine}, vllm_python=VLLM)
        runs.run("import_model", "check_tasks", "tasks:dense:first")
        runs.asker.forget()
        stored = runs.file("tasks:dense:first", "tasks", "tasks.json")
        found[engine] = TaskEvaluation.model_validate_json(stored).results[0]
    ours, theirs = found["transformers"], found["vllm"]
    assert theirs.contract.engine is not None
    assert theirs.contract.engine.startswith("vllm ")
    assert ours.contract.engine is None
    assert [(one.metric, one.value) for one in theirs.metrics] == [
        (one.metric, one.value) for one in ours.metrics
    ]
