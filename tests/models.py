"""Tiny real checkpoints and texts for tests: random weights, a real byte-level BPE tokenizer, no network.

Every checkpoint is what `save_pretrained` writes, so that all tests read what users have.
"""

import json
import os
import random
from functools import cache
from pathlib import Path
from typing import Any, Literal

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # tests fork; threads and forks do not mix

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PretrainedConfig,
    PreTrainedTokenizerFast,
)

Kind = Literal["llama", "mistral", "qwen2", "qwen3", "opt", "gpt2"]
KINDS: tuple[Kind, ...] = ("llama", "mistral", "qwen2", "qwen3", "opt", "gpt2")

VOCABULARY = 384  # the 256 bytes, the specials, and a hundred merges
POSITIONS = 128
BOS, EOS = "<s>", "</s>"
QWEN_END = "<|endoftext|>"  # transformers adds it to every Qwen2 tokenizer; here it has a place already
ADDS_BOS: tuple[Kind, ...] = ("llama", "mistral", "opt")  # as the real tokenizers of these types do

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
    kind: Kind, directory: Path, *, seed: int = 0, max_shard_size: str | None = None, dtype: str = "float32"
) -> Path:
    """Write a random model of `kind` with its tokenizer into `directory` and return it.

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


def tiny_config(kind: Kind) -> PretrainedConfig:
    """Hidden size 64, 2 or 4 blocks. Llama and the Qwens share key-value heads; Llama ties embeddings."""
    common: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 1,
        "initializer_range": 0.1,  # weights as small as the default make all logits equal
    }
    if kind == "opt":
        sizes = {"num_hidden_layers": 2, "hidden_size": 64, "ffn_dim": 128, "num_attention_heads": 4}
        positions = {"max_position_embeddings": POSITIONS, "word_embed_proj_dim": 64}
        quiet = {"dropout": 0.0, "attention_dropout": 0.0, "init_std": 0.1}
        return AutoConfig.for_model(kind, **common, **sizes, **positions, **quiet)
    if kind == "gpt2":
        sizes = {"n_layer": 2, "n_embd": 64, "n_inner": 128, "n_head": 4, "n_positions": POSITIONS}
        quiet = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        return AutoConfig.for_model(kind, **common, **sizes, **quiet)
    return AutoConfig.for_model(
        kind,
        **common,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=4 if kind == "llama" else 2,
        num_attention_heads=4,
        num_key_value_heads=4 if kind == "mistral" else 2,
        head_dim=16,
        max_position_embeddings=POSITIONS,
        tie_word_embeddings=kind == "llama",
    )


def tiny_tokenizer(kind: Kind) -> PreTrainedTokenizerFast:
    """Byte-level BPE trained on PARAGRAPH. `<s>` is 0, `</s>` is 1; some kinds put `<s>` in front."""
    tokenizer = Tokenizer.from_str(_trained())
    if kind in ADDS_BOS:
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
    """Documents of shuffled words of PARAGRAPH: each has more than 100 tokens."""
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
