"""Tiny checkpoints of encoder-decoders, with random weights and a Unigram SentencePiece tokenizer."""

import io
import json
from functools import cache
from pathlib import Path

import torch
from sentencepiece import SentencePieceTrainer
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSeq2SeqLM, PreTrainedModel, T5Tokenizer

from pipeline.tensor.pairs import joined, parted
from tests.encoder_decoder_configs import ENCODER_DECODERS, OWN_HEAD
from tests.models import PARAGRAPH

SENTINELS = 12
SPIECE = "spiece.model"
TOKENS = 200  # those of random pairs


def encoder_decoder(name: str, directory: Path, *, seed: int = 0, dtype: str = "float32") -> Path:
    """Write a random model with its tokenizer into `directory`, and return `directory`."""
    kind, fields = ENCODER_DECODERS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = AutoConfig.for_model(kind, **fields)
        model = AutoModelForSeq2SeqLM.from_config(config, dtype=getattr(torch, dtype))
        if name in OWN_HEAD:
            model.lm_head.weight = nn.Parameter(torch.randn_like(model.shared.weight))
    model.save_pretrained(directory)
    if "tie_word_embeddings" in fields:  # published files have this field, and not what the class makes of it
        path = directory / "config.json"
        config = json.loads(path.read_text())
        del config["scale_decoder_outputs"]
        path.write_text(json.dumps({**config, "tie_word_embeddings": fields["tie_word_embeddings"]}))
    unigram_tokenizer(directory)
    return directory


def unigram_tokenizer(directory: Path, *, byte_fallback: bool = False) -> None:
    """Write spiece.model and what transformers makes of it, with sentinels behind its pieces."""
    (directory / SPIECE).write_bytes(unigram_model(byte_fallback=byte_fallback))
    T5Tokenizer.from_pretrained(directory, extra_ids=SENTINELS).save_pretrained(directory)


@cache
def unigram_model(*, byte_fallback: bool) -> bytes:
    """A SentencePiece model with T5's special pieces: pad, EOS and the unknown one first, no BOS."""
    written = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(PARAGRAPH.strip().split("\n")),
        model_writer=written,
        vocab_size=360 if byte_fallback else 200,
        model_type="unigram",
        byte_fallback=byte_fallback,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=3,
    )
    return written.getvalue()


def loaded(directory: Path) -> PreTrainedModel:
    """With stock transformers, which must use every tensor and miss none."""
    model, notes = AutoModelForSeq2SeqLM.from_pretrained(
        directory, dtype=torch.float32, output_loading_info=True
    )
    assert not any(notes[what] for what in ("unexpected_keys", "mismatched_keys", "missing_keys")), notes
    return model.eval()


def pairs(count: int, *, read: int = 14, written: int = 9) -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    sides = [torch.randint(3, TOKENS, (read + written,), generator=generator) for _ in range(count)]
    return [joined(side[:read], side[read:]) for side in sides]


def run_whole(model: PreTrainedModel, pair_L: Tensor) -> Tensor:
    """The logits [D, V] of a pair in transformers, which shifts what is written by itself."""
    read_E, written_D = parted(pair_L)
    return model(input_ids=read_E[None], labels=written_D[None]).logits[0]
