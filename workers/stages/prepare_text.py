"""The stage that makes training sequences from documents."""

from itertools import islice

import torch
from torch import Tensor

from pipeline.artifacts.artifact import FileRef
from pipeline.artifacts.curve import Shard, TokensIndex
from pipeline.artifacts.refs import TokensRef
from pipeline.checkpoint.writer import put_tensors
from pipeline.dag.stages.sources import PrepareText
from pipeline.sources import open_source
from pipeline.text.documents import ChatReader, read_documents
from pipeline.text.loading import load_tokenizer
from pipeline.text.sequences import Row, check_enough, shuffled_shards
from pipeline.text.token_rows import check_token_rows, embedding_rows
from workers.context import Made, Progress, StageContext, Steps


def run(stage: PrepareText, context: StageContext) -> Steps:
    """Tokenise as much text as needed with the model's own tokenizer. Memory holds one shard at a time."""
    content = context.content
    field, pin = context.source(stage.files)
    access = context.settings.access()
    source = open_source(pin.source, access, repository="dataset")
    tokenizer = load_tokenizer(context.checkpoint(), content)
    reader = ChatReader(tokenizer, context.order.request.spec.model.source)
    documents = read_documents(stage.text, pin, source, access, reader=reader)
    row = Row(stage.text, tokenizer)
    sequences = row.sequences(documents)

    rows = embedding_rows(context.checkpoint(), content)

    def check(tokens: Tensor) -> None:
        check_token_rows(tokens, tokenizer, rows=rows, source=stage.text.source, field=field)

    held_out = list(islice(sequences, stage.text.validation_sequences))
    for sequence in held_out:
        check(sequence)
    files: list[FileRef] = []
    shards: list[Shard] = []
    done = 0
    for tokens_NL in shuffled_shards(sequences, stage.text, wanted=stage.sequences):
        check(tokens_NL)
        path = f"train-{len(shards):05d}.safetensors"
        files.append(put_tensors(content, path, {"tokens": tokens_NL})[0])
        shards.append(Shard(path=path, sequences=len(tokens_NL)))
        done += len(tokens_NL)
        yield Progress(done, stage.sequences)
    check_enough(stage.text, found=done, needed=stage.sequences, read_tokens=row.read_tokens)
    if held_out:
        files.append(put_tensors(content, TokensRef.VALIDATION, {"tokens": torch.stack(held_out)})[0])
    index = TokensIndex(
        sequence_length=stage.text.sequence_length,
        sequences=done,
        validation_sequences=len(held_out),
        shards=tuple(shards),
        read_tokens=row.read_tokens,
        text_digest=row.digest.hexdigest(),
    )
    yield Made(
        {"tokens": TokensRef.made(content, index, files=files)}, details={"tokens": float(row.read_tokens)}
    )
