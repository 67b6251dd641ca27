"""The blocks of encoder-decoders as times are estimated from them are those that transformers makes."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForSeq2SeqLM

from pipeline.architecture.rows import row_for
from pipeline.planning.shape import shape_of
from pipeline.structure.sizes import prefixes, sizes_of
from tests.encoder_decoder_configs import ENCODER_DECODERS, ROWS


@pytest.mark.parametrize("name", ENCODER_DECODERS)
def test_weights_are_those_of_the_model(name: str) -> None:
    kind, fields = ENCODER_DECODERS[name]
    config = AutoConfig.for_model(kind, **fields)
    row, stated = row_for(kind), config.to_dict()
    shape = shape_of(row, stated, sizes_of(row, stated))
    with torch.device("meta"):
        made = AutoModelForSeq2SeqLM.from_config(config)
    for prefix, counted in zip(prefixes(row, stated), shape.blocks, strict=True):
        block = made.get_submodule(prefix.rstrip("."))
        linears = [one for one in block.modules() if isinstance(one, torch.nn.Linear)]
        assert sum(one.weight.numel() for one in linears) == counted.weights
    assert shape.vocabulary == ROWS


@pytest.mark.parametrize("name", ENCODER_DECODERS)
def test_sizes_are_the_class_s_under_every_name(name: str) -> None:
    kind, _ = ENCODER_DECODERS[name]
    row = row_for(kind)
    spellings = row.config_names.spellings
    for field, names in spellings.items():
        for stated in (names, names[:1], names[1:]):
            config = {one: 8 * (number + 1) for number, one in enumerate(stated)}
            assert row.read(config, field) == getattr(AutoConfig.for_model(kind, **config), field), field
    read = AutoConfig.for_model(kind)
    for field, value in row.config_names.defaults.items():
        assert getattr(read, field) == value, field
    assert sizes_of(row, {}).num_hidden_layers == read.num_layers + read.num_decoder_layers
