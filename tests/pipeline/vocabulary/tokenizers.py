"""Tokenizers to cut, as the small files of a checkpoint: trained here, or real ones from packages."""

import io
import json
import sys
import zipfile
from functools import cache
from pathlib import Path

import pytest
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from pipeline.checkpoint.layout import is_description
from pipeline.errors import SourceUnreachable
from tests.models import PARAGRAPH, tiny_tokenizer
from workers.demo_data import TEXTS_FOLDER, TEXTS_REQUIREMENT
from workers.wheels import fetch_wheel

KEPT = Path(sys.prefix) / "share" / "secateur-tests"
MISTRAL_REQUIREMENT = "mistral-common==1.13.1"
MISTRAL_MODEL = "mistral_common/data/tokenizer.model.v1"

MANY_TONGUES = """
Die Gärtnerin schneidet zuerst die Äste, die sich kreuzen; übrig bleibt, was Licht braucht.
Le jardinier coupe d'abord les branches mortes, puis il taille ce qui pousse vers l'intérieur.
El árbol más alto no siempre da más manzanas, pero la vecina cuenta sus ramas todos los años.
Садовник обрезает старые яблони до конца зимы и решает, какие ветви останутся.
Ο κηπουρός κλαδεύει τα δέντρα πριν τελειώσει ο χειμώνας και κρατά τα πιο γερά κλαδιά.
園丁在冬天結束之前修剪蘋果樹,留下來的枝條得到更多的光和水。
庭師は冬が終わる前に古い林檎の木を剪定し、どの枝を残すかを決めます。
정원사는 겨울이 끝나기 전에 사과나무를 다듬고 어떤 가지를 남길지 정한다.
البستاني يقلم أشجار التفاح قبل نهاية الشتاء ويقرر أي الأغصان تبقى.
"""
LINES = [line for line in (PARAGRAPH + MANY_TONGUES).split("\n") if line]

SENTENCEPIECE = ("bpe", "bpe-bytes", "unigram", "unigram-bytes")
BYTE_LEVEL = ("tokenizer-json", "vocab-and-merges", "whole-words")
TRAINED = (*SENTENCEPIECE, *BYTE_LEVEL)


@cache
def tokenizer_files(kind: str) -> dict[str, bytes]:
    """config.json and the tokenizer's files of a trained kind. `whole-words`: of Llama 3's type."""
    if kind in SENTENCEPIECE:
        model, _, bytes_too = kind.partition("-")
        data = sentencepiece_model(model, byte_fallback=bool(bytes_too))
        return sentencepiece_files(data)
    if kind == "whole-words":
        tokenizer = whole_words()
    else:
        tokenizer = tiny_tokenizer("gpt2" if kind == "vocab-and-merges" else "llama")
    document = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary = document["model"]["vocab"]
    if kind != "vocab-and-merges":
        return {"config.json": config("llama", rows=len(tokenizer)), **saved(tokenizer)}
    merges = "".join(f"{left} {right}\n" for left, right in document["model"]["merges"])
    return {
        "config.json": config("gpt2", rows=len(vocabulary)),
        "vocab.json": json.dumps(vocabulary).encode(),
        "merges.txt": f"#version: 0.2\n{merges}".encode(),
        "tokenizer_config.json": json.dumps({"bos_token": "<s>", "eos_token": "</s>"}).encode(),
    }


def config(model_type: str, *, rows: int, **fields: object) -> bytes:
    ids = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": None}
    return json.dumps({"model_type": model_type, "vocab_size": rows, **ids, **fields}).encode()


def sentencepiece_files(data: bytes) -> dict[str, bytes]:
    rows = SentencePieceProcessor(model_proto=data).get_piece_size()
    return {
        "config.json": config("llama", rows=rows, bos_token_id=1, eos_token_id=2),
        "tokenizer.model": data,
    }


def sentencepiece_model(model_type: str, *, byte_fallback: bool) -> bytes:
    """A model of 800 pieces. Without byte fallback it has the usual normalization and user-defined pieces."""
    written = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(LINES),
        model_writer=written,
        vocab_size=800,
        model_type=model_type,
        byte_fallback=byte_fallback,
        normalization_rule_name="identity" if byte_fallback else "nmt_nfkc",
        user_defined_symbols=[] if byte_fallback else ["<sep>", "the apple"],
        character_coverage=0.98,
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=3,
    )
    return written.getvalue()


def whole_words() -> PreTrainedTokenizerFast:
    """A tokenizer that takes words that are tokens without merges. Special tokens come after the others; one
    is put around every text, and the chat template names another."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=900, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(LINES, trainer)
    names = ["<|begin|>", "<|end|>", "<|user|>", "<|pad|>"]
    tokenizer.add_special_tokens(names)
    around = [(name, tokenizer.token_to_id(name)) for name in names[:2]]
    template = processors.TemplateProcessing(single="<|begin|> $A <|end|>", special_tokens=around)
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=names[0], eos_token=names[1], pad_token=names[3]
    )
    made.chat_template = "{% for m in messages %}<|user|>{{ m.content }}<|end|>{% endfor %}"
    return made


def saved(tokenizer: PreTrainedTokenizerFast) -> dict[str, bytes]:
    """The files that save_pretrained writes."""
    import tempfile

    with tempfile.TemporaryDirectory() as directory:
        tokenizer.save_pretrained(directory)
        return {
            path.name: path.read_bytes() for path in Path(directory).iterdir() if is_description(path.name)
        }


def member(requirement: str, path: str) -> bytes:
    """A file of a package that is downloaded once. The test is skipped where that is impossible."""
    try:
        wheel = fetch_wheel(requirement, KEPT)
    except SourceUnreachable as error:
        pytest.skip(f"{requirement} cannot be downloaded: {error.message}")
    with zipfile.ZipFile(wheel) as packed:
        return packed.read(path)


def real_lines(name: str) -> list[str]:
    """Lines of one of exllamav3's texts."""
    text = member(TEXTS_REQUIREMENT, f"{TEXTS_FOLDER}/{name}.utf8").decode()
    return [line for line in text.split("\n") if line.strip()]
