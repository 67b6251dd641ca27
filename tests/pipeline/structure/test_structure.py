"""What a spec asks for, which sizes follow, and what is chosen."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from transformers import AutoConfig, LlamaConfig

from pipeline.architecture.rows import row_for
from pipeline.checkpoint.skeleton import parameter_count
from pipeline.errors import InvalidSpec
from pipeline.spec.structure import Structure
from pipeline.structure.choosing import best, choose
from pipeline.structure.cut import sizes_after
from pipeline.structure.depth import DropBlocks
from pipeline.structure.scores import BlockScores, ModelScores
from pipeline.structure.sizes import Sizes, resized, sizes_of
from pipeline.structure.target import slow_sizes
from tests.model_configs import tiny_config

LLAMA_7B = {
    "model_type": "llama",
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "intermediate_size": 11008,
    "vocab_size": 32000,
}
LLAMA_13B = {
    **LLAMA_7B,
    "hidden_size": 5120,
    "num_hidden_layers": 40,
    "num_attention_heads": 40,
    "num_key_value_heads": 40,
    "intermediate_size": 13824,
}
SMOLLM = {
    "model_type": "llama",
    "hidden_size": 576,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "intermediate_size": 1536,
    "vocab_size": 49152,
}
DROP = TypeAdapter(DropBlocks)


def target(config: dict, **asked: object) -> Sizes:
    row = row_for(config["model_type"])
    return Structure(criterion={"kind": "magnitude"}, **asked).target(row, config)


def tiny(kind: str) -> dict:
    return json.loads(tiny_config(kind).to_json_string(use_diff=False))


class TestSizes:
    def test_llama_shrinks_as_published(self) -> None:
        """Widths and depths of Pruning-LLMs; weights by hand: 2VH + B(4HA·128 + 3HF + 2H) + H."""
        config = LLAMA_13B
        for hidden, blocks, heads, ffn in ((4096, 32, 32, 11008), (3072, 28, 24, 8192), (2560, 24, 20, 6912)):
            new = target(
                config,
                hidden_size=hidden,
                num_attention_heads=heads,
                intermediate_size=ffn,
                drop_blocks={"kind": "spaced", "num_blocks": blocks},
            )
            row = row_for("llama")
            full = json.loads(LlamaConfig(**config).to_json_string(use_diff=False))
            config = resized(row, full, new, range(blocks))
            by_hand = 2 * 32000 * hidden + hidden
            by_hand += blocks * (4 * hidden * heads * 128 + 3 * hidden * ffn + 2 * hidden)
            assert parameter_count(config) == by_hand
            assert sizes_of(row, config) == new
        assert by_hand < parameter_count(LLAMA_7B) == 6_738_415_616

    def test_whole_groups_go_where_nothing_is_said_of_them(self) -> None:
        new = target(SMOLLM, num_attention_heads=6)
        assert (new.num_attention_heads, new.num_key_value_heads, new.head_dim) == (6, 2, 64)

    def test_all_groups_stay_where_heads_divide_by_them_only(self) -> None:
        eight = {**LLAMA_7B, "num_key_value_heads": 8}
        assert target(eight, num_attention_heads=16).num_key_value_heads == 4
        config = {**SMOLLM, "num_attention_heads": 12, "num_key_value_heads": 2, "head_dim": 64}
        new = target(config, num_attention_heads=8)  # 6 a group; 8 is no multiple of 6, but of 2
        assert (new.num_key_value_heads, new.heads_per_group) == (2, 4)

    @pytest.mark.parametrize(
        ("asked", "says"),
        [
            ({"hidden_size": 577}, "at most 576"),
            ({"hidden_size": 500}, "multiple of num_attention_heads=9.*nearest valid: 495, 504"),
            ({"num_attention_heads": 7}, "3 key-value heads.*nearest valid: 6, 9"),
            ({"num_attention_heads": 6, "num_key_value_heads": 4}, "at most 3"),
            ({"num_attention_heads": 8, "num_key_value_heads": 2}, "2 key-value heads.*nearest valid: 6"),
            ({"num_experts": 2}, "has no num_experts.*hidden_size"),
            ({"drop_blocks": {"kind": "spaced", "num_blocks": 31}}, "at most 30"),
            ({"drop_blocks": {"kind": "explicit", "blocks": [3, 30]}}, "blocks 0 to 29"),
            ({"intermediate_size": 1001, "tensor_parallel": 3}, "divide the asked intermediate_size=1001"),
            ({"intermediate_size": 1024, "tensor_parallel": 2}, "the model's num_attention_heads=9"),
        ],
    )
    def test_refusals_name_the_field_and_what_is_near(self, asked: dict, says: str) -> None:
        with pytest.raises(InvalidSpec, match=says) as refused:
            target(SMOLLM, **asked)
        assert refused.value.param is not None
        assert refused.value.param.startswith("spec.structure.")

    def test_types_without_a_field_for_head_dim(self) -> None:
        opt = tiny("opt")
        assert target(opt, hidden_size=48).num_attention_heads == 3
        assert target(opt, num_attention_heads=2).hidden_size == 32
        with pytest.raises(InvalidSpec, match=r"multiple of head_dim=16.*nearest valid: 32, 48"):
            target(opt, hidden_size=40)
        with pytest.raises(InvalidSpec, match="nearest valid: 32"):
            target(opt, hidden_size=48, num_attention_heads=2)
        with pytest.raises(InvalidSpec, match="must differ from word_embed_proj_dim=32"):
            target(tiny("opt-post-norm"), hidden_size=32)
        assert target(tiny("bloom"), hidden_size=32).intermediate_size == 128

    def test_experts_have_aligned_sizes(self) -> None:
        with pytest.raises(InvalidSpec, match=r"multiple of 8.*nearest valid: 24, 32"):
            target(tiny("mixtral"), moe_intermediate_size=30)
        assert target(tiny("mixtral"), num_experts=3).num_experts == 3

    def test_another_type_takes_what_llama_refuses(self) -> None:
        row = row_for("llama")
        asked = Structure(criterion={"kind": "magnitude"}, hidden_size=500, export_as="mistral")
        new = asked.target(row, SMOLLM)
        config = resized(row, {**SMOLLM, "rms_norm_eps": 1e-5}, new, range(30)) | asked.changes(row, SMOLLM)
        model = AutoConfig.for_model(**config)
        assert (model.model_type, model.hidden_size, model.head_dim) == ("mistral", 500, 64)
        with pytest.raises(InvalidSpec, match="attention_bias"):
            asked.changes(row, {**SMOLLM, "attention_bias": True})

    def test_slow_sizes_are_named(self) -> None:
        (sentence,) = slow_sizes(sizes_of(row_for("llama"), SMOLLM), target(SMOLLM, intermediate_size=1000))
        assert "intermediate_size=1000" in sentence
        assert "896, 1024" in sentence

    def test_tokens_go_with_their_tokenizer_only(self) -> None:
        cut = {"blocks": [{"block": 0}], "vocabulary": [0, 1]}
        with pytest.raises(ValidationError, match=r"ask for structure\.vocabulary") as caught:
            Structure.model_validate({"criterion": {"kind": "explicit", "cut": cut}})
        assert caught.value.errors()[0]["loc"] == ("criterion", "cut", "vocabulary")
        vocabulary = {"size": 64, "texts": [{"source": "file:/t.txt"}]}
        with pytest.raises(ValidationError, match="leave it out") as caught:
            Structure.model_validate({"vocabulary": vocabulary, "export_as": "mistral"})
        assert caught.value.errors()[0]["loc"] == ("export_as",)

    def test_a_structure_asks_for_something(self) -> None:
        with pytest.raises(ValidationError, match="asks for nothing"):
            Structure()
        whole = {"blocks": [{"block": 0}]}
        with pytest.raises(ValidationError, match="leave sizes"):
            Structure(hidden_size=8, criterion={"kind": "explicit", "cut": whole})


class TestDepth:
    def test_spaced(self) -> None:
        """The example of Pruning-LLMs: of 12 blocks 4 and 7."""
        kept = DROP.validate_python({"kind": "spaced", "num_blocks": 10}).kept(12, ())
        assert sorted({*range(12)} - {*kept}) == [4, 7]

    @given(of=st.integers(1, 130), data=st.data())
    def test_spaced_leaves_as_many_as_asked(self, of: int, data: st.DataObject) -> None:
        count = data.draw(st.integers(1, of))
        kept = DROP.validate_python({"kind": "spaced", "num_blocks": count}).kept(of, ())
        assert len(kept) == count
        assert sorted({*kept}) == list(kept)
        assert {*kept} <= {*range(of)}

    def test_influence(self) -> None:
        rule = DROP.validate_python({"kind": "block_influence", "num_blocks": 3})
        assert rule.kept(5, (0.5, 0.1, 0.3, 0.1, 0.9)) == (0, 2, 4)


@st.composite
def scored(draw: st.DrawFn) -> tuple[ModelScores, Sizes, Sizes, int]:
    shares = draw(st.sampled_from([1, 2, 4]))
    groups, wide = shares * draw(st.integers(1, 3)), draw(st.integers(1, 3))
    kept_groups = shares * draw(st.integers(1, groups // shares))
    hidden, ffn = 8 * shares, 12 * shares
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    old = Sizes(
        hidden_size=hidden,
        num_hidden_layers=3,
        num_attention_heads=groups * wide,
        num_key_value_heads=groups,
        head_dim=4,
        vocab_size=9,
        intermediate_size=ffn,
    )
    new = old.model_copy(
        update={
            "hidden_size": shares * draw(st.integers(1, 8)),
            "num_attention_heads": kept_groups * draw(st.integers(1, wide)),
            "num_key_value_heads": kept_groups,
            "intermediate_size": shares * draw(st.integers(1, 12)),
        }
    )
    blocks = tuple(BlockScores(heads_A=rng.random(groups * wide), ffn_F=rng.random(ffn)) for _ in range(3))
    return ModelScores(rng.random(hidden), blocks), old, new, shares


@given(scored())
def test_what_stays_has_the_sizes_and_is_even_in_every_share(given_: tuple) -> None:
    scores, old, new, shares = given_
    cut = choose(scores, old, new, (0, 2), tensor_parallel=shares)
    assert sizes_after(cut, old) == new.model_copy(update={"num_hidden_layers": 2})

    def even(places: tuple[int, ...] | None, of: int) -> None:
        if places is not None:
            counts = np.bincount(np.array(places) // (of // shares), minlength=shares)
            assert len({*counts.tolist()}) == 1

    even(cut.hidden, old.hidden_size)
    for block in cut.blocks:
        even(block.ffn, old.intermediate_size)
        even(block.heads, old.num_attention_heads)
        even(block.key_value_heads, old.num_key_value_heads)
        heads = range(old.num_attention_heads) if block.heads is None else block.heads
        by_group = np.bincount(np.array([*heads]) // old.heads_per_group)
        assert {*by_group[by_group > 0].tolist()} == {new.heads_per_group}


def test_the_best_stay_and_equals_by_index() -> None:
    assert best(np.array([3.0, 9.0, 3.0, 1.0]), 2) == (0, 1)
    assert best(np.array([3.0, 9.0, 3.0, 1.0]), 2, shares=2) == (1, 2)
    assert best(np.array([1.0, 1.0, 1.0]), 2) == (0, 1)
