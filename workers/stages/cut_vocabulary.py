"""The stage that makes a checkpoint with fewer tokens, and proves its tokenizer."""

from safetensors.torch import load

from pipeline.architecture.rows import row_for
from pipeline.artifacts.refs import CountsRef, VocabularyRef
from pipeline.artifacts.vocabulary import CorpusSize, HeldOutDocuments, VocabularyProof
from pipeline.checkpoint.reader import CheckpointReader
from pipeline.checkpoint.slicing import full_config
from pipeline.dag.stages.structure import CutVocabulary
from pipeline.structure.sizes import sizes_of
from pipeline.structure.table import SizeTable
from pipeline.structure.target import slow_sizes
from pipeline.vocabulary.counting import TokenCounts
from pipeline.vocabulary.cutting import kept_tokens, prove, read_vocabulary, table_of
from pipeline.vocabulary.weights import cut_checkpoint, left_behind, small_files
from workers.context import Made, Note, Progress, StageContext, Steps


def run(stage: CutVocabulary, context: StageContext) -> Steps:
    """Cut the checkpoint tensor by tensor. The tokenizer is proved on held-out text before the stage ends."""
    content, ref = context.content, context.checkpoint()
    vocabulary = read_vocabulary(small_files(content, ref))
    corpus = context.load("counts", CorpusSize)
    counts_V = load(context.read("counts", CountsRef.TOKENS))["tokens"]
    counts = TokenCounts(counts_V, documents=corpus.documents, bytes=corpus.bytes)
    tokens = kept_tokens(vocabulary, counts, size=stage.size, multiple_of=stage.multiple_of)
    dense = CheckpointReader(content, ref)
    config = full_config(dense.config)
    sizes = sizes_of(row_for(str(config["model_type"])), config)
    smaller = sizes.model_copy(update={"vocab_size": tokens.rows})
    for sentence in (*left_behind(ref), *slow_sizes(sizes, smaller)):
        yield Note(sentence, level="warning")
    checkpoint = proof = None
    for made in cut_checkpoint(content, ref, vocabulary, tokens):
        if isinstance(made, int):
            yield Progress(made, sizes.num_hidden_layers)
        else:
            checkpoint = made
    assert checkpoint is not None, "cutting ends with what it made"
    held_out = context.load("counts", HeldOutDocuments).root
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
    figures = table_of(vocabulary, tokens, counts, proof)
    yield Made({"checkpoint": checkpoint, "vocabulary": VocabularyRef.made(content, tokens, figures, table)})
