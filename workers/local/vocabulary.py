"""`python -m workers.local.vocabulary DIRECTORY OUT ...` cuts a checkpoint's vocabulary on this machine,
without a cluster."""

import argparse
import math
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pipeline.artifacts.refs import CheckpointRef, VocabularyRef
from pipeline.artifacts.vocabulary import KeptTokens, VocabularyTable
from pipeline.canonical import canonical_json
from pipeline.checkpoint.export import export_checkpoint
from pipeline.checkpoint.reader import CheckpointReader
from pipeline.resolve.resolve import resolve_text
from pipeline.sources import open_source
from pipeline.spec.texts import TextSource
from pipeline.spec.vocabulary import VocabularySize
from pipeline.storage import ContentStore
from pipeline.text.documents import read_documents
from pipeline.vocabulary.counting import MAX_HELD_OUT, check_held_out, count_tokens, is_held_out
from pipeline.vocabulary.cutting import kept_tokens, prove, read_vocabulary, table_of
from pipeline.vocabulary.weights import cut_checkpoint, left_behind, small_files
from workers.local.cutting import ACCESS, cutting
from workers.local.refusal import refusing


def main() -> None:
    """Cut a vocabulary. Exit codes: 0 cut, 1 refused (the reason is the last line of standard error)."""
    parser = argparse.ArgumentParser(
        prog="python -m workers.local.vocabulary", description="Cut a vocabulary."
    )
    parser.add_argument("directory", type=Path, help="a Hugging Face checkpoint")
    parser.add_argument("out", type=Path, help="must not exist")
    parser.add_argument("--vocabulary", required=True, help="a VocabularySize as JSON")
    arguments = parser.parse_args()
    asked = VocabularySize.model_validate_json(arguments.vocabulary)
    with refusing():
        _cut(arguments.directory, arguments.out, asked)


def _cut(directory: Path, out: Path, asked: VocabularySize) -> None:
    with cutting(directory, out, needs_tokenizer=True) as work:
        content, dense, progress = work.content, work.dense, work.progress
        vocabulary = read_vocabulary(small_files(content, dense))
        proving = [] if asked.held_out is None else list(islice(_documents((asked.held_out,)), MAX_HELD_OUT))
        task = progress.add_task("counts documents", total=None)
        documents = _counted(asked, proving)
        for counted in count_tokens(documents, vocabulary.tokenizer, rows=vocabulary.rows):
            if isinstance(counted, int):
                progress.update(task, completed=counted, description=f"counts documents: {counted:,}")
            else:
                counts = counted
        progress.update(task, total=counts.documents)
        check_held_out(proving)
        for sentence in left_behind(dense):
            sys.stderr.write(f"note: {sentence}\n")
        tokens = kept_tokens(vocabulary, counts, size=asked.size, multiple_of=asked.multiple_of)
        task = progress.add_task("cuts", total=work.blocks)
        for made in cut_checkpoint(content, dense, vocabulary, tokens):
            if isinstance(made, int):
                progress.update(task, completed=made)
            else:
                cut = made
        task = progress.add_task("proves", total=None)
        for compared in prove(vocabulary, small_files(content, cut), tokens, proving):
            if isinstance(compared, int):
                progress.update(task, completed=compared)
            else:
                proof = compared
        export_checkpoint(content, cut, work.written)
        (work.written / VocabularyRef.path_of(KeptTokens)).write_bytes(canonical_json(tokens))
        sizes = [_parameters(content, ref) for ref in (dense, cut)]
    _show(table_of(vocabulary, tokens, counts, proof), sizes)


def _counted(asked: VocabularySize, proving: list[str]) -> Iterator[str]:
    """Yield the documents of the corpus. If no held-out text is named, some of them go to `proving`
    instead."""
    for i, document in enumerate(_documents(asked.texts)):
        if asked.held_out is None and is_held_out(i):
            proving.append(document)
        else:
            yield document


def _documents(texts: tuple[TextSource, ...]) -> Iterator[str]:
    for text in texts:
        pin = resolve_text(text, ACCESS)
        source = open_source(pin.source, ACCESS, repository="dataset")
        yield from read_documents(text, pin, source, ACCESS)


def _parameters(content: ContentStore, ref: CheckpointRef) -> int:
    return sum(math.prod(entry.shape) for entry in CheckpointReader(content, ref).index.tensors.values())


def _show(cut: VocabularyTable, parameters: list[int]) -> None:
    table = Table(box=None, header_style="bold")
    for heading in ("", "dense", "cut"):
        table.add_column(heading, justify="right" if heading else "left")
    table.add_row("tokens", f"{cut.dense_rows:,}", f"{cut.rows:,}")
    table.add_row("  that must stay", "", f"{cut.protected:,}")
    table.add_row("  that others are merged from", "", f"{cut.passing:,}")
    if cut.padding:
        table.add_row("  rows that no text yields", "", f"{cut.padding:,}")
    table.add_row("corpus tokens", f"{cut.corpus_tokens:,}", f"{cut.kept_share:.2%} kept")
    texts = cut.proof.tokenizer
    table.add_row(
        "tokens per byte, held out", f"{cut.dense_tokens_per_byte:.4f}", f"{cut.tokens_per_byte:.4f}"
    )
    table.add_row("parameters", *(f"{count:,}" for count in parameters))
    table.add_row("  saved", "", f"{parameters[0] - parameters[1]:,}")
    table.add_row("texts returned unchanged", *_of(texts.texts, texts.dense_identical, texts.identical))
    table.add_row("texts of kept tokens, all with the same pieces", "", f"{texts.same_pieces:,}")
    if cut.proof.sentencepiece is not None:
        table.add_row("  and by SentencePiece's own library", "", f"{cut.proof.sentencepiece.same_pieces:,}")
    table.add_row("added tokens, all in their places", "", f"{cut.proof.added_tokens:,}")
    Console().print(table)


def _of(total: int, *counts: int) -> list[str]:
    return [f"{count:,} of {total:,}" for count in counts]


if __name__ == "__main__":
    main()
