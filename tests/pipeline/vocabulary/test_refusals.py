"""Files whose vocabulary cannot be cut are refused, with what is wrong with them."""

import json

import pytest

from pipeline.errors import TextTooShort, UnsupportedCheckpoint
from pipeline.vocabulary.cutting import kept_tokens, read_vocabulary
from pipeline.vocabulary.reading import read_pieces
from tests.pipeline.vocabulary.made import counts, dense
from tests.pipeline.vocabulary.tokenizers import config, tokenizer_files


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tokenizer.json": None}, "no tokenizer whose vocabulary can be cut"),
        ({"config.json": config("llama", rows=0)}, "vocab_size=0"),
        ({"config.json": config("llama", rows=300)}, r"the embedding has 300 rows, 0 to 299"),
        (
            {"config.json": config("llama", rows=384, eos_token_id=[1, 999])},
            "eos_token_id in config.json is token 999",
        ),
        (
            {"generation_config.json": b'{"pad_token_id": 384}'},
            "pad_token_id in generation_config.json is token 384",
        ),
    ],
)
def test_unusable_files_are_refused(change: dict[str, bytes | None], said: str) -> None:
    files = {**tokenizer_files("tokenizer-json"), **change}
    with pytest.raises(UnsupportedCheckpoint, match=said):
        read_vocabulary({name: data for name, data in files.items() if data is not None})


def test_unknown_kinds_are_refused() -> None:
    files = dict(tokenizer_files("tokenizer-json"))
    document = json.loads(files["tokenizer.json"])
    words = {"[UNK]": 0, "<s>": 1, "</s>": 2}
    for model, said in (
        (
            {
                "type": "WordPiece",
                "unk_token": "[UNK]",
                "continuing_subword_prefix": "##",
                "max_input_chars_per_word": 9,
                "vocab": words,
            },
            "type 'WordPiece'",
        ),
        ({**document["model"], "end_of_word_suffix": "</w>"}, "end_of_word_suffix='</w>'"),
        ({"type": "BPE", "vocab": {}, "merges": []}, "empty vocabulary"),
    ):
        with pytest.raises(UnsupportedCheckpoint, match=said):
            read_pieces(json.dumps({**document, "model": model}), None)
    with pytest.raises(UnsupportedCheckpoint, match="no SentencePiece model"):
        read_pieces(None, b"\xff\xff")
    with pytest.raises(UnsupportedCheckpoint, match="neither one of the tokenizers library"):
        read_pieces(None, None)
    with pytest.raises(UnsupportedCheckpoint, match=r"has id \d+ in its SentencePiece model and id \d+"):
        read_pieces(dense("bpe").tokenizer.backend, tokenizer_files("unigram")["tokenizer.model"])
    empty = counts([0] * 384)
    with pytest.raises(TextTooShort, match=r"1 documents and no token"):
        kept_tokens(dense("tokenizer-json"), empty, size=300)
