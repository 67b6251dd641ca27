"""Checks a vocabulary's size against a checkpoint's small files, without loading the tokenizer."""

from collections.abc import Mapping

from pipeline.spec.vocabulary import VocabularySize
from pipeline.vocabulary.choosing import check_size
from pipeline.vocabulary.protected import protected_ids
from pipeline.vocabulary.reading import read_pieces, sentencepiece_of

TOKENIZER_JSON = "tokenizer.json"


def check_tokens(asked: VocabularySize, files: Mapping[str, bytes], *, rows: int) -> None:
    """Raises InvalidSpec when more tokens must stay than the spec requests, and UnsupportedCheckpoint for a
    tokenizer that cannot be cut.

    Details that only transformers knows are checked when the job runs: ids that config.json leaves to the
    model's class, and files in forms that it converts.
    """
    sentencepiece = sentencepiece_of(files)
    if TOKENIZER_JSON not in files and sentencepiece is None:
        return
    try:
        backend = files[TOKENIZER_JSON].decode() if TOKENIZER_JSON in files else None
        models = read_pieces(backend, sentencepiece)
        protected = protected_ids(models, backend, files, rows=rows)
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError):
        return  # an unknown form: transformers reads it when the job runs, or reports why it cannot
    check_size(models, protected, size=asked.size, multiple_of=asked.multiple_of)
