"""Tiny real checkpoints and texts for tests, with random weights and a real byte-level BPE tokenizer.

`save_pretrained` writes every checkpoint, so that all tests read the files that users have.
"""

import json
import os
import random
from functools import cache
from pathlib import Path

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # tests fork, which threads would break

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    PreTrainedTokenizerFast,
)

from tests.model_configs import EVERY, KINDS, POSITIONS, VOCABULARY, Kind, kind_of, tiny_config

__all__ = ["EVERY", "KINDS", "POSITIONS", "VOCABULARY", "Kind", "tiny_config"]

BOS, EOS = "<s>", "</s>"
QWEN_END = "<|endoftext|>"  # transformers adds it to every Qwen2 tokenizer, unless the vocabulary has it
# The real tokenizers of these types add BOS too.
ADDS_BOS: tuple[Kind, ...] = ("llama", "mistral", "mixtral", "opt", "gemma2", "gemma3_text")

PARAGRAPH = """
The gardener walks between the old apple trees before the winter ends and decides which branches stay.
She cuts the crossing ones first, then the shoots that grow inward, and she never takes more than a third
of a tree in one year. A good cut is clean and slants away from the bud, so that the rain runs off and the
wound closes by itself. What is left gets more light, more water and more air; in autumn the apples are
fewer, larger and sweeter than before. Her neighbour, who does not believe in pruning, has a taller tree
and a smaller harvest. He counts his branches; she counts her apples. In the evening both of them sit on
the wall, share a loaf of bread, and argue about which of the two numbers a tree would rather be told.
"""


def tiny_checkpoint(
    kind: str, directory: Path, *, seed: int = 0, max_shard_size: str | None = None, dtype: str = "float32"
) -> Path:
    """Write a random model of a kind or variant with its tokenizer into `directory`, and return `directory`.

    Equal arguments give equal files. `max_shard_size` ("100KB") forces shards with an index.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(tiny_config(kind), dtype=getattr(torch, dtype))
    shards = {} if max_shard_size is None else {"max_shard_size": max_shard_size}
    model.save_pretrained(directory, **shards)
    tiny_tokenizer(kind).save_pretrained(directory)
    return directory


def tiny_tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """A byte-level BPE trained on PARAGRAPH. `<s>` is 0, `</s>` is 1; some kinds put `<s>` in front."""
    tokenizer = Tokenizer.from_str(_trained())
    if kind_of(kind) in ADDS_BOS:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, 0)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=EOS,
        model_max_length=POSITIONS,
        clean_up_tokenization_spaces=False,
    )


def tiny_documents(*, count: int = 24, words: int = 80, seed: int = 0) -> list[str]:
    """Documents of random words of PARAGRAPH, each with more than 100 tokens."""
    rng = random.Random(seed)
    vocabulary = PARAGRAPH.split()
    return [" ".join(rng.choices(vocabulary, k=words)) for _ in range(count)]


def tiny_text(directory: Path, *, documents: list[str] | None = None) -> Path:
    """Write text.txt (a document per line), text.jsonl and text.parquet (column `text`); return the first."""
    directory.mkdir(parents=True, exist_ok=True)
    documents = tiny_documents() if documents is None else documents
    path = directory / "text.txt"
    path.write_text("".join(f"{document}\n" for document in documents), encoding="utf-8")
    rows = [json.dumps({"text": document, "number": i}) + "\n" for i, document in enumerate(documents)]
    path.with_suffix(".jsonl").write_text("".join(rows), encoding="utf-8")
    table = pa.table({"text": documents, "number": list(range(len(documents)))})
    pq.write_table(table, path.with_suffix(".parquet"), row_group_size=5)
    return path


@cache
def _trained() -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[BOS, EOS, QWEN_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([PARAGRAPH], trainer)
    return str(tokenizer.to_str())
