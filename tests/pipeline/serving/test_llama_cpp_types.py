"""llama.cpp's types beside secateur_sparse: what is refused early, and what stays as it was without them."""

import pytest
from pydantic import TypeAdapter, ValidationError

from pipeline.dag.stages.serving import MeasureServing
from pipeline.errors import InvalidSpec
from pipeline.serving.available import TargetSettings, check_available
from pipeline.serving.llama_cpp import check_gguf_types
from pipeline.serving.shapes import check_target
from pipeline.spec.targets import SecateurSparse, Target, Targets
from pipeline.structure.sizes import Sizes

TARGETS: TypeAdapter[tuple[Target, ...]] = TypeAdapter(Targets)
SIZES = Sizes(
    hidden_size=80,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=4,
    head_dim=16,
    vocab_size=384,
    intermediate_size=96,
)
BESIDE = SecateurSparse(llama_cpp=("F32", "Q4_0"))


def test_a_stage_without_them_has_the_fields_of_before() -> None:
    stage = MeasureServing(target=SecateurSparse()).model_dump(mode="json")
    assert stage.keys() == {"kind", "target"}
    assert stage["target"].keys() == {
        *("kind", "prompt_tokens", "generated_tokens", "rounds", "threads", "values")
    }


def test_rows_that_scales_do_not_divide_are_refused() -> None:
    check_gguf_types(("F32", "BF16"), SIZES, field="here")
    with pytest.raises(InvalidSpec, match=r"Q4_0 have .* hidden_size=80 of this model; use F32") as refused:
        check_gguf_types(BESIDE.llama_cpp, SIZES, field="here")
    assert refused.value.param == "here"


def test_models_that_llama_cpp_does_not_have_are_refused() -> None:
    check_target(SecateurSparse(), model_type="phi3", config={}, sizes=SIZES, field="spec.target.0")
    with pytest.raises(InvalidSpec, match="phi3 cannot be written as GGUF") as refused:
        check_target(BESIDE, model_type="phi3", config={}, sizes=SIZES, field="spec.target.0")
    assert refused.value.param == "spec.target.0.llama_cpp"


def test_workers_without_llama_cpp_do_not_take_them() -> None:
    settings = TargetSettings(targets=("secateur_sparse",))
    check_available((SecateurSparse(),), settings)
    with pytest.raises(InvalidSpec, match=r"do not have llama\.cpp.*or leave llama_cpp out") as refused:
        check_available((BESIDE,), settings)
    assert refused.value.param == "spec.target.0.llama_cpp"


def test_a_type_is_asked_for_once() -> None:
    with pytest.raises(ValidationError, match="Q4_0 is named twice"):
        TARGETS.validate_python({"kind": "secateur_sparse", "llama_cpp": ["Q4_0", "F32", "Q4_0"]})
