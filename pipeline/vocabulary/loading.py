"""Loads tokenizers as their users run them: with transformers, and with the sentencepiece library."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import JsonValue

from pipeline.checkpoint.class_config import class_config
from pipeline.checkpoint.layout import CONFIG_JSON, TOKENIZER_FILES, has_tokenizer, is_template
from pipeline.errors import UnsupportedCheckpoint
from pipeline.vocabulary.reading import NAMED, sentencepiece_of


class LoadedTokenizer:
    """The tokenizer that transformers loads from a checkpoint's files."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        """Raises UnsupportedCheckpoint when the files have no tokenizer, or none that transformers can
        read."""
        from transformers import AutoTokenizer

        if not has_tokenizer(files):
            raise UnsupportedCheckpoint(
                "the checkpoint has no tokenizer whose vocabulary can be cut; expected tokenizer.json, "
                f"{NAMED}, or vocab.json with merges.txt",
                "spec.model.source",
            )
        with tempfile.TemporaryDirectory(prefix="secateur-tokenizer-") as directory:
            for name, data in files.items():
                if name in (CONFIG_JSON, *TOKENIZER_FILES) or is_template(name):
                    (Path(directory) / name).parent.mkdir(exist_ok=True)
                    (Path(directory) / name).write_bytes(data)
            try:
                self._tokenizer = AutoTokenizer.from_pretrained(directory)
            except Exception as error:  # the tokenizers library raises bare ones
                raise UnsupportedCheckpoint(
                    f"transformers cannot load the tokenizer: {error}", "spec.model.source"
                ) from error

    @property
    def backend(self) -> str | None:
        """The tokenizer.json as it is in memory; None for tokenizers of another library."""
        library = getattr(self._tokenizer, "backend_tokenizer", None)
        return None if library is None else str(library.to_str())

    @property
    def added(self) -> dict[str, int]:
        """Maps the content of every added token to its id."""
        return {str(token): int(i) for i, token in self._tokenizer.added_tokens_decoder.items()}

    @property
    def special(self) -> dict[str, int]:
        """Maps the names of the existing special tokens, such as `bos_token` and `eos_token`, to their
        ids."""
        names = [name for name in self._tokenizer.special_tokens_map if isinstance(name, str)]
        ids = {name: getattr(self._tokenizer, f"{name}_id", None) for name in names}
        return {name: token for name, token in ids.items() if isinstance(token, int)}

    @property
    def chat_templates(self) -> dict[str, str]:
        """Maps the name of every chat template to its text."""
        found = self._tokenizer.chat_template
        return {"default": found} if isinstance(found, str) else dict(found or {})

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns the token ids of each text, without the special tokens of a template."""
        return self._encode(texts, special=False)

    def encode_whole(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns the token ids of each text, with the special tokens around it."""
        return self._encode(texts, special=True)

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of some ids, including special tokens."""
        text = self._tokenizer.decode(
            list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return str(text)

    def _encode(self, texts: Sequence[str], *, special: bool) -> list[list[int]]:
        if not texts:
            return []
        encoded = self._tokenizer(
            list(texts), add_special_tokens=special, return_attention_mask=False, verbose=False
        )
        ids: list[list[int]] = encoded["input_ids"]
        return ids


class SentencePieceFile:
    """A SentencePiece model, run by the sentencepiece library."""

    def __init__(self, data: bytes) -> None:
        from sentencepiece import SentencePieceProcessor

        self._processor = SentencePieceProcessor(model_proto=data)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns the token ids of each text."""
        ids: list[list[int]] = self._processor.encode(list(texts))
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of some ids."""
        return str(self._processor.decode(list(ids)))


def load_sentencepiece(files: Mapping[str, bytes]) -> SentencePieceFile | None:
    """Loads the SentencePiece model among the files of a checkpoint, if there is one."""
    data = sentencepiece_of(files)
    return None if data is None else SentencePieceFile(data)


def explicit_ids(config: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """Returns config.json with the token ids that transformers' class for the model type fills in as
    defaults: they belong to the dense vocabulary."""
    filled = json.loads(class_config(config).to_json_string(use_diff=False))
    rows = filled.get("vocab_size")
    ids = {
        name: value
        for name, value in filled.items()
        if name.endswith("_token_id") and name not in config and isinstance(value, int)
    }
    return {**config, **{name: i for name, i in ids.items() if isinstance(rows, int) and 0 <= i < rows}}
