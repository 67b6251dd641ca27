"""Tokens that texts need are looked for at submission: they must exist, and have a row in the embedding."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AddedToken, PreTrainedTokenizerFast

from pipeline.dag.plan import plan
from pipeline.errors import InvalidRequest, InvalidSpec, UnsupportedCheckpoint
from pipeline.request.prune_spec import PruneSpec
from pipeline.resolve.resolve import resolve
from pipeline.resolve.special_tokens import read_special_tokens
from pipeline.sources import SourceAccess
from pipeline.sources.pins import ModelFacts
from tests.models import VOCABULARY, tiny_checkpoint, tiny_text, tiny_tokenizer

MODEL = "spec.model.source"
PACKED = {"cut": "packed"}


def model_with(root: Path, tokenizer: PreTrainedTokenizerFast, *, kind: str = "llama", **config: Any) -> Path:
    """A tiny model with another tokenizer, and other values in its config.json."""
    directory = tiny_checkpoint(kind, root / "model")
    tokenizer.save_pretrained(directory)
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    return directory


def facts_of(model: Path, *, calibration: dict[str, Any] | None = None, **spec: Any) -> ModelFacts:
    text = {"source": f"file:{tiny_text(model.parent)}", "sequence_length": 32}
    asked = PruneSpec.model_validate(
        {
            "model": {"source": f"file:{model}"},
            "calibration": {**text, "samples": 4, **(calibration or {})},
            "prune": {"method": {"kind": "wanda"}, "pattern": {"kind": "unstructured", "sparsity": 0.5}},
            **spec,
        }
    )
    pins = resolve(asked, SourceAccess(allowed_roots=(model.parent,)))
    assert plan(asked, pins).nodes
    return pins.facts


def refusal(kind: type[InvalidRequest], param: str, model: Path, **spec: Any) -> str:
    with pytest.raises(kind) as caught:
        facts_of(model, **spec)
    assert caught.value.param == param
    return caught.value.message


def added(**tokens: str) -> PreTrainedTokenizerFast:
    """The tiny tokenizer with special tokens beyond its vocabulary."""
    tokenizer = tiny_tokenizer("llama")
    tokenizer.add_special_tokens(tokens)
    return tokenizer


def test_a_stock_model_has_no_notes(tmp_path: Path) -> None:
    assert facts_of(model_with(tmp_path, tiny_tokenizer("llama"))).notes == ()


def test_a_pad_token_beyond_the_rows_is_a_note(tmp_path: Path) -> None:
    (note,) = facts_of(model_with(tmp_path, added(pad_token="[PAD]"))).notes
    assert note == f"pad_token '[PAD]' is token {VOCABULARY}, and the embedding has {VOCABULARY} rows"


@pytest.mark.parametrize(("kind", "refused"), [("llama", True), ("gpt2", False)])
def test_a_config_that_pads_beyond_the_rows(tmp_path: Path, kind: str, refused: bool) -> None:
    """Llama takes the token as a row of its embedding and cannot be made; GPT-2 does not look at it."""
    model = model_with(tmp_path, tiny_tokenizer(kind), kind=kind, pad_token_id=VOCABULARY)
    if refused:
        message = refusal(UnsupportedCheckpoint, MODEL, model)
        assert message.startswith(f"pad_token_id in config.json is token {VOCABULARY}, and the embedding has")
    else:
        facts_of(model)


def test_a_negative_pad_token_is_none(tmp_path: Path) -> None:
    assert facts_of(model_with(tmp_path, tiny_tokenizer("llama"), pad_token_id=-1)).notes == ()


def test_ids_of_the_configs_beyond_the_rows_are_notes(tmp_path: Path) -> None:
    model = model_with(tmp_path, tiny_tokenizer("llama"), eos_token_id=VOCABULARY)
    (model / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, VOCABULARY + 7]}))
    assert facts_of(model).notes == (
        f"eos_token_id {VOCABULARY} in config.json has no row: the embedding has {VOCABULARY}",
        f"eos_token_id {VOCABULARY + 7} in generation_config.json has no row: the embedding has {VOCABULARY}",
    )


def test_added_tokens_beyond_the_rows_are_a_note(tmp_path: Path) -> None:
    """CodeLlama-Python has marks for filling in, and no rows for them: an ordinary text has none of them."""
    tokenizer = tiny_tokenizer("llama")
    tokenizer.add_tokens([f"<{name}>" for name in ("PRE", "MID", "SUF", "EOT", "FIM")])
    (note,) = facts_of(model_with(tmp_path, tokenizer)).notes
    assert f"'<PRE>' {VOCABULARY}, " in note
    assert "and 1 more" in note


def test_an_eos_beyond_the_rows_is_refused_where_it_is_used(tmp_path: Path) -> None:
    model = model_with(tmp_path, added(eos_token="<|im_end|>"))
    assert "'<|im_end|>'" in facts_of(model).notes[0]
    message = refusal(UnsupportedCheckpoint, MODEL, model, calibration=PACKED)
    assert message.startswith(f"eos_token '<|im_end|>' in tokenizer_config.json is token {VOCABULARY}")
    assert "spec.calibration puts it into texts" in message
    assert "resize_token_embeddings" in message
    training = {"text": {"source": f"file:{tmp_path}/text.txt", "sequence_length": 32}, "steps": 30}
    refusal(UnsupportedCheckpoint, MODEL, model, recovery={**training, "global_batch_size": 1})


def test_a_bos_beyond_the_rows(tmp_path: Path) -> None:
    model = model_with(tmp_path, added(bos_token="<|begin|>"))
    facts_of(model)
    message = refusal(UnsupportedCheckpoint, MODEL, model, calibration={"bos": "every_window"})
    assert message.startswith(f"bos_token '<|begin|>' in tokenizer_config.json is token {VOCABULARY}")
    refusal(UnsupportedCheckpoint, MODEL, model, evaluation={"tasks": {"tasks": ["piqa"]}})


def test_what_the_tokenizer_puts_around_texts_has_a_row(tmp_path: Path) -> None:
    model = model_with(tmp_path, tiny_tokenizer("llama"))
    path = model / "tokenizer.json"
    path.write_text(path.read_text().replace('"ids": [\n          0\n        ]', '"ids": [999]'))
    message = refusal(UnsupportedCheckpoint, MODEL, model)
    assert "post_processor in tokenizer.json is token 999" in message
    facts_of(model, calibration=PACKED)


@pytest.mark.parametrize("bos", ["once", "every_window"])
def test_bos_that_the_tokenizer_lacks_is_refused_by_field(tmp_path: Path, bos: str) -> None:
    tokenizer = tiny_tokenizer("gpt2")
    tokenizer.bos_token = None
    model = model_with(tmp_path, tokenizer, kind="gpt2")
    facts_of(model)
    refusal(InvalidSpec, "spec.calibration.bos", model, calibration={"bos": bos})
    text = {"source": f"file:{tmp_path}/text.txt", "sequence_length": 32}
    texts = {"perplexity": [text, {**text, "bos": bos}]}
    refusal(InvalidSpec, "spec.evaluation.perplexity.1.bos", model, evaluation=texts)


def test_gemma_without_bos_is_asked_to_say_so(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer("gpt2")
    tokenizer.bos_token = None
    model = model_with(tmp_path, tokenizer, kind="gemma2")
    assert "bos: none" in refusal(InvalidSpec, "spec.calibration.bos", model)
    facts_of(model, calibration={"bos": "none"})


def test_a_stride_that_gemma_has_no_room_for(tmp_path: Path) -> None:
    model = model_with(tmp_path, tiny_tokenizer("gemma2"), kind="gemma2")
    text = {"source": f"file:{tmp_path}/text.txt", "sequence_length": 32, "stride": 32}
    field = "spec.evaluation.perplexity.0.stride"
    assert "use 31 or less" in refusal(InvalidSpec, field, model, evaluation={"perplexity": [text]})


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"])
@pytest.mark.parametrize("content", ["{", "[1]", "null"])
def test_a_damaged_file_is_named(tmp_path: Path, name: str, content: str) -> None:
    model = model_with(tmp_path, tiny_tokenizer("llama"))
    (model / name).write_text(content)
    assert name in refusal(InvalidRequest, MODEL, model)


def test_every_place_of_added_tokens() -> None:
    decoder = {"9": AddedToken("<nine>").__getstate__(), "x": {"content": "<no>"}}
    files = {
        "added_tokens.json": {"<eight>": 8},
        "tokenizer_config.json": {"added_tokens_decoder": decoder, "eos_token": {"content": "<nine>"}},
        "special_tokens_map.json": {"bos_token": "<eight>"},
        "tokenizer.json": {"model": {"vocab": [["a", 0.0], ["b", -1.0]]}},
    }
    tokens = read_special_tokens({name: json.dumps(content).encode() for name, content in files.items()})
    assert (tokens.id_of("bos"), tokens.id_of("eos"), tokens.id_of("pad")) == (8, 9, None)
    assert tokens.ids == {"a": 0, "b": 1, "<eight>": 8, "<nine>": 9}
    assert tokens.added == {"<eight>": 8, "<nine>": 9}
