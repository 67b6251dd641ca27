"""What the rows know of config.json is what transformers' classes read, whichever fields a file has."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, PretrainedConfig

from pipeline.architecture.rows import ROWS, row_for
from pipeline.checkpoint.class_config import class_config
from pipeline.errors import UnsupportedCheckpoint
from pipeline.structure.sizes import resized, sizes_of
from tests.hybrid_configs import HYBRID_TYPES
from tests.llama_like_configs import LLAMA_LIKE_TYPES
from tests.model_configs import KINDS, tiny_config
from tests.own_configs import OWN_TYPES

EVERY_TYPE = (*KINDS, *LLAMA_LIKE_TYPES, *OWN_TYPES, *HYBRID_TYPES)

# Names that hub repositories use for sizes. A class reads some of them, and ignores others.
SPELLINGS = {
    "hidden": ("hidden_size", "n_embed", "n_embd", "d_model"),
    "blocks": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    "heads": ("num_attention_heads", "n_head", "n_heads", "num_heads"),
    "groups": ("num_key_value_heads", "num_kv_heads", "n_head_kv"),
    "ffn": ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size"),
    "experts": ("num_experts", "num_local_experts", "n_routed_experts"),
    "positions": ("max_position_embeddings", "n_positions", "n_ctx", "max_sequence_length"),
    "tokens": ("vocab_size", "n_vocab"),
}
VALUES = {
    "hidden": 96,
    "blocks": 3,
    "heads": 6,
    "groups": 6,
    "ffn": 80,
    "experts": 5,
    "positions": 77,
    "tokens": 390,
}


def fields_of(kind: str) -> list[str]:
    """The fields of a type's config.json that the row reads."""
    row = row_for(kind)
    return [*row.sizes.values(), row.positions_key, *row.config_names.defaults]


def read_of(read: PretrainedConfig, field: str) -> object:
    """What the class reads for a field, of all blocks that have none of their own (Gemma 4's head_dim)."""
    read.allow_global_per_layer_attribute_access = True
    return getattr(read, field)


def test_every_row_has_an_entry() -> None:
    assert all(row.config_names.defaults for row in ROWS.values())


@pytest.mark.parametrize("kind", EVERY_TYPE)
def test_an_empty_config_has_the_class_s_defaults(kind: str) -> None:
    read = AutoConfig.for_model(kind)
    for field in fields_of(kind):
        known = row_for(kind).read({}, field)
        if known is not None:
            assert known == read_of(read, field), field
    assert sizes_of(row_for(kind), {}).hidden_size == read.hidden_size


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("what", SPELLINGS)
def test_a_field_counts_under_the_names_that_the_class_reads(kind: str, what: str) -> None:
    row, value = row_for(kind), VALUES[what]
    read = [field for field in (*row.sizes.values(), row.positions_key) if field in SPELLINGS[what]]
    for name in SPELLINGS[what]:
        try:
            stated = AutoConfig.for_model(kind, **{name: value})
        except Exception:  # noqa: BLE001  # the class wants other fields to agree with it
            continue
        for field in read:
            if hasattr(stated, field):
                ours, theirs = row.read({name: value}, field), getattr(stated, field)
                assert ours in (None, theirs) if name != field else ours == theirs, (name, field)
                assert (ours == value) == (theirs == value), (name, field)


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_where_a_file_has_several_names_the_class_decides(kind: str, data: st.DataObject) -> None:
    row = row_for(kind)
    for field, names in row.config_names.spellings.items():
        stated = data.draw(st.permutations(names).map(lambda some: some[: max(1, len(some))]))
        config = {name: 64 * (i + 1) for i, name in enumerate(stated)}
        assert row.read(config, field) == getattr(AutoConfig.for_model(kind, **config), field)


@pytest.mark.parametrize("kind", EVERY_TYPE)
@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_sizes_are_the_class_s_whatever_is_left_out(kind: str, data: st.DataObject) -> None:
    whole = tiny_config(kind).to_dict()
    dropped = data.draw(st.sets(st.sampled_from(fields_of(kind))))
    config = {name: value for name, value in whole.items() if name not in dropped}
    try:
        read = class_config(config)
        sizes = sizes_of(row_for(kind), config)
    except UnsupportedCheckpoint:
        return  # the defaults do not fit the sizes that are left
    made = class_config(resized(row_for(kind), config, sizes, range(sizes.num_hidden_layers)))
    for size, field in row_for(kind).sizes.items():
        if read_of(read, field) is not None and size != "num_key_value_heads":  # Falcon's flags decide
            assert getattr(sizes, size) == read_of(read, field) == read_of(made, field), field
