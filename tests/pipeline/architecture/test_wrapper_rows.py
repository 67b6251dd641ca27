"""The rows of multimodal types against transformers' classes."""

import json

import pytest
from pydantic import JsonValue
from transformers import CONFIG_MAPPING, AutoConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES

from pipeline.architecture.wrappers import READ_AS, WRAPPERS, language_name, spellings
from pipeline.checkpoint.language_model import language_config, language_names, with_language, wrapper_of
from pipeline.checkpoint.outside import whole_model
from tests.wrapper_checkpoints import WRAPPED


@pytest.mark.parametrize("model_type", WRAPPERS)
def test_the_rows_say_what_transformers_reads(model_type: str) -> None:
    """The type of the language model, whether it is tied, and where it lies."""
    assert model_type in MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES
    wrapper, config = WRAPPERS[model_type], AutoConfig.for_model(model_type)
    assert config.get_text_config().model_type == wrapper.text
    stated = {"model_type": model_type, "text_config": {"model_type": wrapper.text}}
    for top in ({}, {"tie_word_embeddings": True}, {"tie_word_embeddings": False}):
        for inner in ({}, {"tie_word_embeddings": True}):
            content = {**stated, **top, "text_config": {**stated["text_config"], **inner}}
            made = AutoConfig.for_model(**json.loads(json.dumps(content)))
            assert language_config(content)["tie_word_embeddings"] == made.tie_word_embeddings, (top, inner)


@pytest.mark.parametrize("name", WRAPPED)
def test_the_language_model_lies_where_the_row_says(name: str) -> None:
    config = WRAPPED[name]
    wrapper = wrapper_of(config)
    assert wrapper is not None
    model = whole_model(config, where="x")
    assert model.get_decoder() is model.get_submodule(wrapper.module)


@pytest.mark.parametrize("model_type", READ_AS)
def test_defaults_are_those_of_the_class(model_type: str) -> None:
    made = CONFIG_MAPPING[model_type]()
    for field, value in READ_AS[model_type].defaults.items():
        got = made.rope_parameters["rope_theta"] if field == "rope_theta" else getattr(made, field)
        assert got == value, field
    other = CONFIG_MAPPING[READ_AS[model_type].model_type]().to_dict()
    differing = {
        field
        for field, value in made.to_dict().items()
        if field in other and other[field] != value and field not in READ_AS[model_type].defaults
    }
    assert differing <= {"model_type", "rope_parameters", "layer_types", "sliding_window"}


def test_a_name_and_its_spellings() -> None:
    assert [*spellings("lm_head.weight")] == ["lm_head.weight", "language_model.lm_head.weight"]
    for name in ("model.layers.0.mlp.up_proj.weight", "lm_head.weight", "model.norm.weight"):
        assert {language_name(one) for one in spellings(name)} == {name}
    for name in (
        "model.vision_tower.encoder.layers.0.weight",
        "visual.blocks.0.norm1.weight",
        "model.visual.x",
    ):
        assert language_name(name) is None


def test_a_model_that_is_no_wrapper_is_its_own_language_model() -> None:
    config: dict[str, JsonValue] = {"model_type": "llama", "text_config": {"model_type": "gemma3_text"}}
    assert wrapper_of(config) is None
    assert language_config(config) == config
    assert with_language(config, config, {"model_type": "mistral"}) == {"model_type": "mistral"}
    assert language_names(config, ["language_model.model.x"]) == {
        "language_model.model.x": "language_model.model.x"
    }
