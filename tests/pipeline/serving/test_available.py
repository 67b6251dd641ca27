"""A target that the workers do not have is refused before anything runs."""

import pytest
from pydantic import TypeAdapter, ValidationError

from pipeline.errors import InvalidSpec
from pipeline.serving.available import TargetSettings, check_available
from pipeline.spec.eval_tasks import EvalTask, EvalTasks
from pipeline.spec.targets import Target, Targets

TARGETS: TypeAdapter[tuple[Target, ...]] = TypeAdapter(Targets)


def test_the_light_targets_are_installed_for_development() -> None:
    assert {"llama.cpp", "onnxruntime", "openvino"} <= set(TargetSettings().available)


def test_a_python_with_vllm_makes_it_available() -> None:
    assert "vllm" in TargetSettings(vllm_python="/opt/vllm/bin/python").available


@pytest.mark.parametrize("text", ["vllm,llama.cpp", " vllm , llama.cpp", '["vllm", "llama.cpp"]'])
def test_a_list_of_targets_may_be_written_in_two_ways(text: str) -> None:
    settings = TargetSettings.model_validate({"targets": text})
    assert settings.available == ("vllm", "llama.cpp")
    check_available(TARGETS.validate_python([{"kind": "llama.cpp"}]), settings)
    with pytest.raises(
        InvalidSpec, match=r"do not have onnxruntime \(they have: vllm, llama.cpp\)"
    ) as refused:
        check_available(TARGETS.validate_python([{"kind": "vllm"}, {"kind": "onnxruntime"}]), settings)
    assert "secateur[targets]" in refused.value.message
    assert refused.value.param == "spec.target.1.kind"


def test_an_engine_of_tasks_must_be_there_too() -> None:
    tasks = EvalTasks(tasks=(EvalTask(name="sciq"),), engine="vllm")
    check_available((), TargetSettings(targets=("vllm",)), tasks=tasks)
    with pytest.raises(InvalidSpec, match=r"do not have vllm.*or use engine transformers") as refused:
        check_available((), TargetSettings(targets=()), tasks=tasks)
    assert refused.value.param == "spec.evaluation.tasks.engine"


def test_a_target_that_nobody_knows_is_no_setting() -> None:
    with pytest.raises(ValidationError, match="targets"):
        TargetSettings.model_validate({"targets": "tgi"})
