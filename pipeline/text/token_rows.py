"""A check that every token of a text has a row in the embedding, made where the text is tokenised."""

import json

from torch import Tensor

from pipeline.architecture.rows import row_for
from pipeline.artifacts.refs import CheckpointRef
from pipeline.checkpoint.language_model import language_config
from pipeline.checkpoint.layout import CONFIG_JSON
from pipeline.errors import InvalidSpec
from pipeline.storage.content import ContentStore
from pipeline.structure.sizes import sizes_of
from pipeline.text.tokens import Tokenizer

SHOWN = 4  # tokens that the error names


def embedding_rows(ref: CheckpointRef, content: ContentStore) -> int:
    """Returns the number of rows of a checkpoint's embedding, as its config.json states it."""
    config = language_config(json.loads(content.get_bytes(ref.file(CONFIG_JSON))))
    row = row_for(str(config["model_type"]))
    return sizes_of(row, config).vocab_size


def check_token_rows(tokens: Tensor, tokenizer: Tokenizer, *, rows: int, source: str, field: str) -> None:
    """Raises InvalidSpec that names `field` for tokens, int [...], of the text `source` that have no row."""
    if not tokens.numel() or int(tokens.max()) < rows:
        return
    beyond = sorted({*tokens[tokens >= rows].tolist()})
    named = ", ".join(f"{tokenizer.convert_ids_to_tokens(i)!r} {i}" for i in beyond[:SHOWN])
    more = f" and {len(beyond) - SHOWN} more" if len(beyond) > SHOWN else ""
    raise InvalidSpec(
        f"{source} holds tokens beyond the {rows} rows of the embedding ({named}{more}); use a text without "
        f"them, or give the model rows for them (resize_token_embeddings)",
        field,
    )
