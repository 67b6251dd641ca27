"""What a spec that quantizes becomes, and what it is refused for."""

from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.canonical import canonical_json
from pipeline.errors import InvalidSpec
from pipeline.request.prune_spec import PruneSpec
from pipeline.resolve.model_checks import check_against_model
from pipeline.sources.pins import ModelFacts
from tests.pipeline.dag.made_dags import MODELLED, PRUNED, TEXT, check, ids, inputs, keys, planned
from tests.pipeline.dag.test_dag import KEYS

INT4, Q8 = {"kind": "gptq", "group_size": 32}, {"kind": "gguf"}
MAGNITUDE = {"method": {"kind": "magnitude"}, "pattern": {"kind": "unstructured", "sparsity": 0.5}}


def spec(**parts: Any) -> PruneSpec:
    return PruneSpec.model_validate({"model": {"source": "file:/m"}, "prune": MAGNITUDE, **parts})


def test_forms_are_made_of_the_final_model_and_its_other_stages_stay() -> None:
    dag = planned(**PRUNED, quantize=[INT4, Q8])
    check(dag)
    found = keys(dag)
    assert {name: key for name, key in found.items() if name in KEYS} == KEYS
    name = "gptq-int4-g32"
    samples = {"checkpoint": "prune.checkpoint", "samples": "calibrate.samples"}
    assert inputs(dag, f"round:{name}") == samples
    assert inputs(dag, f"quantize:{name}") == {
        "checkpoint": "prune.checkpoint",
        "rounded": f"round:{name}.checkpoint",
        "keep": "prune.keep",
    }
    assert "rounded" not in inputs(dag, "quantize:gguf-q8_0")
    assert "round:gguf-q8_0" not in ids(dag)
    assert inputs(dag, f"evaluate:{name}") == {"checkpoint": f"quantize:{name}.checkpoint"}
    assert inputs(dag, "publish")[f"quantize:{name}"] == f"quantize:{name}.quantized"
    assert inputs(dag, "verify")[f"read_back:{name}"] == f"quantize:{name}.checkpoint"
    assert inputs(dag, "report")[f"evaluation:{name}"] == f"evaluate:{name}.evaluation"


def test_what_training_made_is_quantized() -> None:
    dag = planned(**PRUNED, recovery=MODELLED, quantize=INT4)
    check(dag)
    assert inputs(dag, "quantize:gptq-int4-g32")["checkpoint"] == "recover.checkpoint"
    assert inputs(dag, "quantize:gptq-int4-g32")["keep"] == "recover.keep"


def test_a_spec_without_forms_says_nothing_of_them() -> None:
    assert b"quantize" not in canonical_json(spec())
    assert spec(quantize=None) == spec()
    assert spec(quantize=Q8) == spec(quantize=[Q8])


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"quantize": INT4}, "calibration is missing: quantize kind gptq measures"),
        ({"quantize": [Q8, {**Q8, "weights": "Q8_0"}]}, "gguf-q8_0 is asked for twice"),
        ({"quantize": {"kind": "gptq", "group_size": 48}}, "32, 64 or 128"),
        (
            {"quantize": Q8, "sweep": {"sparsities": [0.5]}, "evaluation": {"perplexity": [TEXT]}},
            "a sweep publishes no model; leave quantize out",
        ),
    ],
)
def test_specs_that_fit_no_model(parts: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        spec(**parts)


LLAMA = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "vocab_size": 384,
}


@pytest.mark.parametrize(
    ("model_type", "config", "form", "field", "message"),
    [
        (
            "llama",
            {},
            {"kind": "rtn", "group_size": 64},
            "group_size",
            "does not divide the 96 .* use 32, or",
        ),
        ("llama", {"intermediate_size": 80}, {"kind": "gptq", "group_size": 32}, "group_size", "use null"),
        ("llama", {"intermediate_size": 80}, Q8, "weights", "use weights BF16"),
        ("mixtral", {"num_key_value_heads": 2}, {"kind": "fp8"}, "", "has experts"),
        ("opt", {"ffn_dim": 64}, Q8, "", "types that can: llama, mistral, qwen2, qwen3"),
        ("falcon", {"num_kv_heads": 4}, {"kind": "fp8"}, "", "transformers does not open a falcon"),
        ("gpt2", {"n_embd": 64, "n_layer": 2, "n_head": 4}, {"kind": "fp8"}, "", "stored transposed"),
    ],
)
def test_models_that_a_form_cannot_hold(
    model_type: str, config: dict[str, Any], form: dict[str, Any], field: str, message: str
) -> None:
    facts = ModelFacts(
        model_type=model_type,
        blocks=2,
        max_positions=None,
        hidden_size=64,
        vocabulary=384,
        parameters=None,
        config={**LLAMA, "model_type": model_type, **config},
    )
    text = {"source": "file:/t.txt", "sequence_length": 32, "samples": 4}
    with pytest.raises(InvalidSpec, match=message) as refused:
        check_against_model(spec(quantize=form, calibration=text), facts)
    assert refused.value.param == f"spec.quantize.0{'.' if field else ''}{field}"
