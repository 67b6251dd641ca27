"""`perplexity` measures a model that is in memory, as jobs measure a checkpoint block by block."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import JsonValue, ValidationError

from pipeline.architecture.rows import row_for
from pipeline.canonical import digest_of, sha256_hex
from pipeline.errors import InvalidSpec
from pipeline.request.bos import with_bos
from pipeline.request.spec_files import located
from pipeline.spec.evaluation import PerplexityResult, PerplexityText

Text = Mapping[str, JsonValue] | PerplexityText


def perplexity(model: Any, text: Text, *, tokenizer: str | Path | None = None) -> PerplexityResult:
    """Measure the perplexity of a transformers model on the CPU, with the windows and the sums of a job.

    `model` comes from transformers or from `secateur.sparse.load`, and runs whole, in its own type. `text` is
    an entry of `evaluation.perplexity` in a spec; a relative `file:` source counts from the working
    directory. `tokenizer` is the directory of the tokenizer, by default that which the model was loaded from.

    The figure may be compared with those of jobs, because its contract says what it depends on. Raises
    InvalidSpec for a text that cannot be used, UnsupportedCheckpoint for a directory without a tokenizer, and
    NumericalError where the loss is not finite.
    """
    from pipeline.resolve.lacking import check_windows
    from pipeline.resolve.resolve import resolve_text
    from pipeline.sources import SourceAccess, open_source
    from pipeline.tensor.sequence_loss import whole_loss
    from pipeline.text.documents import ChatReader, read_documents
    from pipeline.text.loading import tokenizer_in
    from pipeline.text.windows import cut, figure

    row = row_for(model.config.model_type)
    asked = with_bos(_checked(text), row.model_type)
    if row.pairs is not None:
        check_windows(asked, row)
    directory = Path(tokenizer or model.config.name_or_path)
    cutting = tokenizer_in(directory)
    access = SourceAccess(allowed_roots=(Path("/"),))
    source = open_source(asked.source, access, repository="dataset")
    reader = ChatReader(cutting, str(directory))
    documents = read_documents(asked, resolve_text(asked, access), source, access, reader=reader)
    rows = model.get_input_embeddings().num_embeddings
    windows = cut(asked, documents, cutting, rows=rows, field="source", pairs=row.pairs)
    return figure(
        windows,
        [
            (whole_loss(model, tokens_L, scored=scored), scored)
            for tokens_L, scored in zip(windows.tokens, windows.scored, strict=True)
        ],
        tokenizer=_tokenizer_digest(directory),
        dtype=str(model.dtype).removeprefix("torch."),  # type: ignore[arg-type]
        device="cpu",
    )


def _checked(text: Text) -> PerplexityText:
    if isinstance(text, PerplexityText):
        return text
    try:
        return PerplexityText.model_validate_json(json.dumps(located(dict(text), Path.cwd())))
    except ValidationError as error:
        problem = error.errors()[0]
        field = ".".join(str(part) for part in problem["loc"])
        raise InvalidSpec(f"{field}: {problem['msg']}", field) from error


def _tokenizer_digest(directory: Path) -> str:
    """What `tokenizer_digest` gives for the same files in a job."""
    from pipeline.checkpoint.layout import TOKENIZER_FILES

    files = [directory / name for name in TOKENIZER_FILES if (directory / name).is_file()]
    return digest_of({path.name: sha256_hex(path.read_bytes()) for path in files})
