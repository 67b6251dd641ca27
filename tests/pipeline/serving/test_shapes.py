"""Which models a target takes is known from config.json alone."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from pipeline.architecture.rows import ROWS, row_for
from pipeline.canonical import canonical_json
from pipeline.errors import InvalidSpec
from pipeline.request.prune_spec import PruneSpec
from pipeline.serving.expected import expected
from pipeline.serving.gains import GAINS, gain_of
from pipeline.serving.llama_cpp import splitting_of
from pipeline.serving.shapes import EXPORTED, check_target
from pipeline.serving.weights import read_weights
from pipeline.spec.patterns import NM, Unstructured
from pipeline.spec.targets import TARGET_KINDS, Target, Targets
from pipeline.structure.sizes import Sizes, sizes_of
from tests.llama_like_configs import LLAMA_LIKE_TYPES
from tests.model_configs import KINDS, tiny_config
from tests.own_configs import OWN_TYPES

TARGET: TypeAdapter[Target] = TypeAdapter(Target)
SIZES = Sizes(
    hidden_size=64,
    num_hidden_layers=2,
    num_attention_heads=8,
    num_key_value_heads=4,
    head_dim=16,
    vocab_size=384,
    intermediate_size=96,
)


def check(target: dict[str, Any], model_type: str = "llama", sizes: Sizes = SIZES, **config: Any) -> None:
    check_target(
        TARGET.validate_python(target),
        model_type=model_type,
        config=config,
        sizes=sizes,
        field="spec.target.0",
    )


@given(
    ranks=st.integers(1, 16),
    heads=st.integers(1, 16),
    groups=st.sampled_from([1, 2, 4]),
    ffn=st.integers(1, 64),
)
def test_vllm_shares_out_what_its_ranks_divide_and_nothing_else(
    ranks: int, heads: int, groups: int, ffn: int
) -> None:
    sizes = SIZES.model_copy(
        update={
            "num_attention_heads": heads * groups,
            "num_key_value_heads": groups,
            "intermediate_size": ffn,
        }
    )
    whole = heads * groups % ranks == ffn % ranks == 384 % ranks == 0
    if whole and (groups % ranks == 0 or ranks % groups == 0):
        check({"kind": "vllm", "tensor_parallel": ranks}, sizes=sizes)
        return
    with pytest.raises(InvalidSpec, match=f"tensor_parallel={ranks} does not divide") as refused:
        check({"kind": "vllm", "tensor_parallel": ranks}, sizes=sizes)
    assert refused.value.param == "spec.target.0.tensor_parallel"


@pytest.mark.parametrize(
    ("target", "model_type", "config", "named"),
    [
        ("llama.cpp", "gpt2", {}, "types that can: llama, mistral, qwen2, qwen3"),
        ("secateur_sparse", "gpt2", {}, "all linears of gpt2 are stored transposed"),
        ("llama.cpp", "mistral", {"sliding_window": 8, "max_position_embeddings": 512}, "sliding_window=8"),
        ("llama.cpp", "llama", {"hidden_act": "gelu"}, "hidden_act='gelu'"),
        ("llama.cpp", "llama", {"rope_scaling": {"type": "dynamic"}}, "'dynamic'"),
        ("onnxruntime", "mixtral", {}, "types that are"),
        ("openvino", "falcon", {"alibi": True}, "alibi"),
        ("openvino", "phi3", {"rope_parameters": {"rope_type": "longrope"}}, "'longrope'"),
        ("onnxruntime", "llama", {"max_position_embeddings": 100}, "192 positions, and the model has 100"),
    ],
)
def test_what_a_target_would_compute_otherwise_is_refused(
    target: str, model_type: str, config: dict[str, Any], named: str
) -> None:
    with pytest.raises(InvalidSpec, match=named):
        check({"kind": target}, model_type, **config)


@pytest.mark.parametrize(
    "config",
    [
        {"sliding_window": None},
        {"sliding_window": 512, "max_position_embeddings": 512},
        {"sliding_window": 8, "use_sliding_window": False},
    ],
)
def test_a_window_that_hides_nothing_is_no_obstacle(config: dict[str, Any]) -> None:
    check({"kind": "llama.cpp"}, "qwen2", **config)


def test_every_model_type_that_is_exported_has_a_row_and_no_experts() -> None:
    assert set(EXPORTED) <= {name for name, row in ROWS.items() if row.experts is None}


@pytest.mark.parametrize("kind", [*KINDS, *LLAMA_LIKE_TYPES, *OWN_TYPES])
def test_the_weights_that_a_token_reads_are_those_of_the_matrices(kind: str) -> None:
    """Compared with transformers' own model: all matrices but the embedding, and the head."""
    import torch
    from transformers import AutoModelForCausalLM

    config = tiny_config(kind)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    row = row_for(kind)
    blocks = model.get_submodule(row.blocks)
    routers = ("mlp.gate.weight", "mlp.router.weight", "shared_expert_gate.weight", "_bias", "conv1d.weight")
    matrices = sum(
        p.numel() for name, p in blocks.named_parameters() if p.dim() > 1 and not name.endswith(routers)
    )
    head = model.get_output_embeddings().weight.numel()
    assert read_weights(row, config.to_dict(), sizes_of(row, config.to_dict())) == matrices + head


def test_the_table_has_a_fact_with_a_source_for_every_form_in_every_target() -> None:
    for target in TARGET_KINDS:
        for form in ("unstructured", "nm", "smaller sizes", "smaller vocabulary"):
            fact = gain_of(target, form)
            assert fact.sources
            skips = target == "secateur_sparse"
            zeros = "what was measured" if skips else "nothing"
            assert fact.gains == (zeros if form in ("unstructured", "nm") else "its share")
    assert len(GAINS) == 4 * len(TARGET_KINDS)


def test_an_expectation_counts_what_is_left() -> None:
    (one,) = expected(
        (TARGET.validate_python({"kind": "llama.cpp"}),),
        row_for("llama"),
        {},
        old=SIZES,
        new=SIZES.model_copy(update={"intermediate_size": 48}),
        pattern=NM(keep=2, group=4),
    )
    assert [fact.form for fact in one.facts] == ["nm", "smaller sizes"]
    attention, head = 64 * (2 * 128 + 2 * 64), 384 * 64
    assert one.weights == round(
        (2 * (attention + 3 * 64 * 48) + head) / (2 * (attention + 3 * 64 * 96) + head), 4
    )
    assert one.notes == (
        "hidden_size=64 is no multiple of 256, so llama-quantize takes larger types instead of its K-quants "
        "(https://github.com/ggml-org/llama.cpp/pull/3747)",
        "intermediate_size=48 is no multiple of 32, so llama.cpp cannot quantize these matrices at all",
    )


def test_a_target_that_skips_zeros_reads_fewer_weights() -> None:
    (one,) = expected(
        (TARGET.validate_python({"kind": "secateur_sparse"}),),
        row_for("llama"),
        {},
        old=SIZES,
        new=SIZES,
        pattern=Unstructured(sparsity=0.75),
    )
    attention, head = 64 * (2 * 128 + 2 * 64), 384 * 64
    blocks = 2 * (attention + 3 * 64 * 96)
    assert one.weights == round((blocks / 4 + head) / (blocks + head), 4)
    assert "unstructured gains what was measured" in one.lines[0]


def test_one_target_or_several_may_be_asked_for() -> None:
    targets: TypeAdapter[tuple[Target, ...]] = TypeAdapter(Targets)
    one = targets.validate_python({"kind": "vllm"})
    assert targets.validate_python([{"kind": "vllm"}]) == one
    assert targets.validate_python(None) == ()
    with pytest.raises(ValidationError, match="vllm is named twice"):
        targets.validate_python([{"kind": "vllm"}, {"kind": "vllm"}])
    with pytest.raises(ValidationError, match=r"'onnxruntime', 'openvino', 'secateur_sparse'"):
        targets.validate_python({"kind": "tgi"})


def test_a_spec_without_a_target_says_nothing_of_targets() -> None:
    """Its stages keep the keys of the time before there were targets."""
    body = {
        "model": {"source": "file:/m"},
        "prune": {"method": {"kind": "magnitude"}, "pattern": {"kind": "nm", "keep": 2, "group": 4}},
    }
    assert b"target" not in canonical_json(PruneSpec.model_validate(body))
    assert b"target" in canonical_json(PruneSpec.model_validate({**body, "target": {"kind": "vllm"}}))
    with pytest.raises(ValidationError, match="leave target out"):
        PruneSpec.model_validate(
            {
                **body,
                "target": {"kind": "vllm"},
                "sweep": {"sparsities": [0.5]},
                "evaluation": {"perplexity": [{"source": "file:/t.txt"}]},
            }
        )


BYTES = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}


@pytest.mark.parametrize(
    ("pre_tokenizer", "name"),
    [
        (BYTES, "gpt-2"),
        (
            {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, BYTES]},
            "smollm",
        ),
    ],
)
def test_known_ways_to_split_a_text_have_their_name(pre_tokenizer: dict[str, Any], name: str) -> None:
    assert splitting_of({"model": {"type": "BPE"}, "pre_tokenizer": pre_tokenizer}) == name


@pytest.mark.parametrize(
    "tokenizer",
    [
        {"model": {"type": "Unigram"}},
        {"model": {"type": "BPE", "byte_fallback": True}},
        {"model": {"type": "BPE"}, "pre_tokenizer": {"type": "Whitespace"}},
        {"model": {"type": "BPE"}, "pre_tokenizer": {**BYTES, "add_prefix_space": True}},
        {"model": {"type": "BPE"}, "pre_tokenizer": BYTES, "normalizer": {"type": "Lowercase"}},
        {"model": {"type": "BPE"}, "pre_tokenizer": None},
        {},
    ],
)
def test_a_tokenizer_that_llama_cpp_does_not_have_is_refused(tokenizer: dict[str, Any]) -> None:
    with pytest.raises(InvalidSpec, match=r"llama\.cpp"):
        splitting_of(tokenizer, field="spec.target.0")
