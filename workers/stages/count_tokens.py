"""The stage that counts each token in a corpus. Every share of the documents but the first is a Ray task."""

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice

import ray

from pipeline.artifacts.refs import CountsRef
from pipeline.artifacts.vocabulary import CorpusSize, HeldOutDocuments
from pipeline.checkpoint.writer import put_tensors
from pipeline.dag.stages.structure import CountTokens
from pipeline.sources import open_source
from pipeline.spec.source_fields import source_fields
from pipeline.spec.texts import TextSource
from pipeline.spec.vocabulary import FIELD as VOCABULARY
from pipeline.spec.vocabulary import VocabularySize
from pipeline.text.documents import read_documents
from pipeline.vocabulary.counting import (
    MAX_HELD_OUT,
    TokenCounts,
    check_held_out,
    count_tokens,
    is_held_out,
    merged,
    share_of,
)
from pipeline.vocabulary.cutting import Vocabulary, read_vocabulary
from pipeline.vocabulary.loading import LoadedTokenizer
from pipeline.vocabulary.weights import small_files
from workers.context import Made, Progress, StageContext, Steps
from workers.failures import error_of

PARALLELISM = "TOKENIZERS_PARALLELISM"  # the tokenizers library looks at it with every batch
MAX_SHARES = 32  # each share reads all documents, and tokenises only its own
MB = 1e6
GIB = 2**30


@dataclass(frozen=True)
class _Counted:
    """The result of a share. `held_out`: documents by their numbers."""

    counts: TokenCounts
    held_out: dict[int, str]


def run(stage: CountTokens, context: StageContext) -> Steps:
    """Count the tokens. The sums do not depend on the number of shares. A tokenizer that cannot be cut is
    refused first."""
    vocabulary = read_vocabulary(small_files(context.content, context.checkpoint()))
    size = sum(file.size for files in stage.files[: len(stage.texts)] for file in files) / MB
    parts: dict[int, _Counted] = {}
    done: Counter[int] = Counter()
    for share, step in _steps(context, vocabulary, shares=_free_places()):
        if isinstance(step, _Counted):
            parts[share] = step
        else:
            done[share] = step
            read = done.total() / MB
            yield Progress(read, max(size, read))
    counts = merged([parts[share].counts for share in sorted(parts)])
    held_out = dict(chain.from_iterable(part.held_out.items() for part in parts.values()))
    proving = [held_out[i] for i in sorted(held_out)]
    if stage.held_out is not None:
        proving = list(islice(_held_out(context), MAX_HELD_OUT))
    check_held_out(proving)
    whole = max(size, done.total() / MB)
    yield Progress(whole, whole)  # held-out documents are not counted
    content = context.content
    artifact = CountsRef.made(
        content,
        CorpusSize(documents=counts.documents, bytes=counts.bytes),
        HeldOutDocuments(tuple(proving)),
        files=[put_tensors(content, CountsRef.TOKENS, {"tokens": counts.tokens_V})[0]],
    )
    yield Made({"counts": artifact}, details={"tokens": float(counts.total)})


def _free_places() -> int:
    """The number of shares: one for this process, and as many as the cluster has room for now."""
    if not ray.is_initialized():
        return 1
    free = dict[str, float](ray.available_resources())
    return 1 + min(MAX_SHARES - 1, int(free.get("CPU", 0)), int(free.get("memory", 0) // GIB))


def _steps(
    context: StageContext, vocabulary: Vocabulary, *, shares: int
) -> Iterator[tuple[int, int | _Counted]]:
    """Yield (share, step) for the steps of all shares as they arrive. The first share is counted here."""
    streams = {
        _remote_share.options(num_cpus=1, memory=GIB, name=f"{context.node} {share + 1}/{shares}").remote(
            context, vocabulary.rows, share, shares
        ): share
        for share in range(1, shares)
    }
    for step in _counts(context, vocabulary.tokenizer, vocabulary.rows, 0, shares):
        yield 0, step
        yield from _ready(streams, wait=False)
    while streams:
        yield from _ready(streams, wait=True)


def _ready(streams: dict[ray.ObjectRefGenerator, int], *, wait: bool) -> Iterator[tuple[int, int | _Counted]]:
    """Yield one step of each share that has one, and drop the shares that have ended."""
    if not streams:
        return
    ready: list[ray.ObjectRefGenerator]
    ready, _ = ray.wait([*streams], num_returns=1 if wait else len(streams), timeout=None if wait else 0)
    for stream in ready:
        try:
            reference: ray.ObjectRef[int | _Counted] = next(stream)
            yield streams[stream], ray.get(reference)
        except StopIteration:
            del streams[stream]
        except ray.exceptions.RayError as error:
            raise error_of(error) from error


@ray.remote(num_returns="streaming", max_retries=0)
def _remote_share(context: StageContext, rows: int, share: int, of: int) -> Iterator[int | _Counted]:
    tokenizer = LoadedTokenizer(small_files(context.content, context.checkpoint()))
    yield from _counts(context, tokenizer, rows, share, of)


def _counts(
    context: StageContext, tokenizer: LoadedTokenizer, rows: int, share: int, of: int
) -> Iterator[int | _Counted]:
    """Count one share. Yields the bytes counted so far, and at last the counts."""
    vocabulary = _asked(context)
    held_out: dict[int, str] = {}
    read = 0

    def counted() -> Iterator[str]:
        nonlocal read
        for i, document in share_of(enumerate(_corpus(context)), share, of=of):
            if vocabulary.held_out is None and is_held_out(i):
                held_out[i] = document
            else:
                read += len(document.encode())
                yield document

    with _one_thread():
        for step in count_tokens(counted(), tokenizer, rows=rows):
            yield read if isinstance(step, int) else _Counted(step, held_out)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Limit the tokenizer to one thread, because a share has one CPU, and restore the setting afterwards."""
    before = os.environ.get(PARALLELISM)
    os.environ[PARALLELISM] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ[PARALLELISM]
        else:
            os.environ[PARALLELISM] = before


def _corpus(context: StageContext) -> Iterator[str]:
    for i in range(len(_asked(context).texts)):
        yield from _documents(context, i)


def _held_out(context: StageContext) -> Iterator[str]:
    return _documents(context, len(_asked(context).texts))


def _documents(context: StageContext, i: int) -> Iterator[str]:
    field = list(source_fields(_asked(context), VOCABULARY))[i]
    text, pin = field.holder, context.order.pins.of(field.path)
    assert isinstance(text, TextSource)
    access = context.settings.access()
    return read_documents(text, pin, open_source(pin.source, access, repository="dataset"), access)


def _asked(context: StageContext) -> VocabularySize:
    structure = context.order.request.spec.structure
    assert structure is not None
    assert structure.vocabulary is not None
    return structure.vocabulary
