"""Whole checkpoints with a smaller vocabulary against the dense ones, as stock transformers loads them."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.artifacts.refs import CheckpointRef
from pipeline.artifacts.vocabulary import KeptTokens
from pipeline.vocabulary.counting import TokenCounts, count_tokens
from pipeline.vocabulary.cutting import kept_tokens, read_vocabulary
from pipeline.vocabulary.weights import cut_checkpoint, small_files
from tests.checkpoints import imported
from tests.exported import export
from tests.models import PARAGRAPH, tiny_checkpoint

SENTENCES = [sentence.strip() for sentence in PARAGRAPH.replace("\n", " ").split(".") if sentence.strip()]
# tied and not; names of their own; an embedding narrower than the blocks; a pad token far up
KINDS = ("llama", "qwen2", "gpt2", "gpt_neox", "opt-post-norm", "phi3", "bloom")


def cut(directory: Path, place: Path, *, size: int) -> tuple[Path, KeptTokens]:
    content, ref = imported(directory, place / "store")
    vocabulary = read_vocabulary(small_files(content, ref))
    *_, counts = count_tokens(SENTENCES[:3], vocabulary.tokenizer, rows=vocabulary.rows)
    assert isinstance(counts, TokenCounts)
    tokens = kept_tokens(vocabulary, counts, size=size, multiple_of=8)
    *told, made = cut_checkpoint(content, ref, vocabulary, tokens)
    assert isinstance(made, CheckpointRef)
    assert told == list(range(1, len(told) + 1))
    return export(content, made, place / "cut"), tokens


@pytest.mark.parametrize("kind", KINDS)
def test_logits_of_kept_tokens_are_the_dense_model_s(kind: str, tmp_path: Path) -> None:
    directory = tiny_checkpoint(kind, tmp_path / "model")
    smaller, tokens = cut(directory, tmp_path, size=305)
    assert tokens.rows == 312
    dense = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    model = AutoModelForCausalLM.from_pretrained(smaller, dtype=torch.float32)
    assert model.config.vocab_size == len(model.get_input_embeddings().weight) == tokens.rows
    tied = dense.get_output_embeddings().weight is dense.get_input_embeddings().weight
    assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) == tied
    saved = dense.num_parameters() - model.num_parameters()
    width = dense.get_input_embeddings().weight.shape[1]
    assert saved == (384 - 312) * width * (1 if tied else 2)
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        before = getattr(dense.config, name)
        assert getattr(model.config, name) == tokens.new_ids[before]
        assert getattr(model.generation_config, name) == tokens.new_ids[before]

    tokenizers = [AutoTokenizer.from_pretrained(place) for place in (directory, smaller)]
    compared = 0
    kept = torch.tensor(tokens.kept)
    for word in PARAGRAPH.split():
        old, new = (tokenizer(f" {word}", return_tensors="pt")["input_ids"] for tokenizer in tokenizers)
        if not set(old[0].tolist()) <= set(tokens.kept):
            continue
        assert [tokens.new_ids[token] for token in old[0].tolist()] == new[0].tolist()
        with torch.inference_mode():
            torch.testing.assert_close(model(new).logits, dense(old).logits[..., kept], rtol=1e-5, atol=1e-5)
        compared += 1
    assert compared > 30

    prompt = tokenizers[1](SENTENCES[0], return_tensors="pt")
    made = model.generate(**prompt, max_new_tokens=8, do_sample=False)
    assert tokenizers[1].decode(made[0], skip_special_tokens=True).strip().startswith(SENTENCES[0])


def test_a_cut_checkpoint_is_cut_again(tmp_path: Path) -> None:
    once, first = cut(tiny_checkpoint("llama", tmp_path / "model"), tmp_path, size=336)
    twice, second = cut(once, tmp_path / "again", size=312)
    rows = [
        AutoModelForCausalLM.from_pretrained(place).get_input_embeddings().weight for place in (once, twice)
    ]
    assert torch.equal(rows[1], rows[0][list(second.kept)])
    assert (first.rows, second.rows) == (336, 312)
    tokenizer = AutoTokenizer.from_pretrained(twice)
    assert tokenizer.decode(tokenizer(PARAGRAPH, add_special_tokens=False)["input_ids"]) == PARAGRAPH
