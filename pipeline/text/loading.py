"""Loads a checkpoint's tokenizer. Only runners import this, because transformers takes seconds to import."""

import tempfile
from pathlib import Path
from typing import Protocol, cast

from transformers import AutoTokenizer

from pipeline.artifacts.refs import CheckpointRef
from pipeline.errors import UnsupportedCheckpoint
from pipeline.storage.content import ContentStore
from pipeline.text.chats import Templated
from pipeline.text.spans import Vocabulary
from pipeline.text.tokens import Tokenizer, materialise_tokenizer


class LoadedTokenizer(Tokenizer, Templated, Vocabulary, Protocol):
    """What a checkpoint's tokenizer does: cut texts into tokens, mark gaps in them, and render chats."""


def load_tokenizer(ref: CheckpointRef, content: ContentStore) -> LoadedTokenizer:
    """The tokenizer that transformers makes of a checkpoint's files. Raises UnsupportedCheckpoint when it
    cannot, because only the checkpoint's owner can mend them."""
    with tempfile.TemporaryDirectory(prefix="secateur-tokenizer-") as directory:
        materialise_tokenizer(ref, content, Path(directory))
        return tokenizer_in(Path(directory))


def tokenizer_in(directory: Path) -> LoadedTokenizer:
    """The tokenizer that transformers makes of the files in a directory. Raises UnsupportedCheckpoint."""
    names = sorted(path.name for path in directory.iterdir()) if directory.is_dir() else []
    try:
        tokenizer = cast(LoadedTokenizer, AutoTokenizer.from_pretrained(directory, local_files_only=True))
        tokenizer("a", add_special_tokens=True, verbose=False)  # some odd settings show only now
    except Exception as error:  # the tokenizers library raises bare ones
        raise UnsupportedCheckpoint(
            f"transformers cannot load the tokenizer from {', '.join(names) or directory}: "
            f"{type(error).__name__}: {error}; copy the tokenizer files that belong to the model there",
            "spec.model.source",
        ) from error
    return tokenizer
