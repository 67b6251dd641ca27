"""A checkpoint with fewer tokens, and the proof of its tokenizer."""

import json

from safetensors.torch import load

from pipeline.architecture.rows import row_for
from pipeline.artifacts.refs import FileRef, VocabularyRef
from pipeline.canonical import canonical_json
from pipeline.checkpoint.reader import CheckpointReader
from pipeline.checkpoint.slicing import full_config
from pipeline.dag.stages import CutVocabulary
from pipeline.structure.sizes import sizes_of
from pipeline.structure.table import SizeTable
from pipeline.structure.target import slow_sizes
from pipeline.vocabulary.counting import TokenCounts
from pipeline.vocabulary.cutting import kept_tokens, prove, read_vocabulary, table_of
from pipeline.vocabulary.table import VocabularyProof
from pipeline.vocabulary.weights import cut_checkpoint, small_files
from workers.stages.base import Made, Note, Progress, StageContext, Steps
from workers.stages.count_tokens import COUNTS, FIGURES, HELD_OUT


def run(stage: CutVocabulary, context: StageContext) -> Steps:
    """Tensor by tensor. What the tokenizer makes of held-out text is compared before anything goes on."""
    content, ref = context.content, context.checkpoint()
    vocabulary = read_vocabulary(small_files(content, ref))
    counts = TokenCounts(
        load(context.read("counts", COUNTS))["tokens"], **json.loads(context.read("counts", FIGURES))
    )
    tokens = kept_tokens(vocabulary, counts, size=stage.size, multiple_of=stage.multiple_of)
    dense = CheckpointReader(content, ref)
    config = full_config(dense.config)
    sizes = sizes_of(row_for(str(config["model_type"])), config)
    smaller = sizes.model_copy(update={"vocab_size": tokens.rows})
    for sentence in slow_sizes(sizes, smaller):
        yield Note(sentence, level="warning")
    checkpoint = proof = None
    for made in cut_checkpoint(content, ref, vocabulary, tokens):
        if isinstance(made, int):
            yield Progress(made, sizes.num_hidden_layers)
        else:
            checkpoint = made
    assert checkpoint is not None, "cutting ends with what it made"
    held_out = json.loads(context.read("counts", HELD_OUT))
    for compared in prove(vocabulary, small_files(content, checkpoint), tokens, held_out):
        if isinstance(compared, VocabularyProof):
            proof = compared
    assert proof is not None, "proving ends with its figures"
    table = SizeTable(
        dense=sizes,
        cut=smaller,
        dense_parameters=dense.weights,
        cut_parameters=CheckpointReader(content, checkpoint).weights,
        blocks=tuple(range(sizes.num_hidden_layers)),
    )
    documents = {
        "vocabulary.json": canonical_json(tokens),
        "table.json": canonical_json(table_of(vocabulary, tokens, counts, proof)),
        "sizes.json": canonical_json(table),
    }
    files = tuple(FileRef(path=path, blob=content.put_bytes(documents[path])) for path in sorted(documents))
    yield Made({"checkpoint": checkpoint, "vocabulary": VocabularyRef(files=files)})
