"""`secateur vocab` on a local checkpoint, as a user types it."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from api.cli.main import app
from tests.models import PARAGRAPH, tiny_checkpoint, tiny_text


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("vocab")
    tiny_checkpoint("llama", place / "model")
    tiny_text(place)
    (place / "held.txt").write_text("Straße, été, 木!\nThe gardener walks.\n", encoding="utf-8")
    return place


def vocab(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["vocab", *arguments])
    return done.exit_code, done.output


@pytest.mark.slow
def test_a_vocabulary_is_cut_and_proved(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    text = ["--text", str(place / "text.txt"), "--text", str(place / "text.jsonl")]
    asked = ["--size", "300", "--multiple-of", "32", "--held-out", str(place / "held.txt")]
    code, said = vocab(str(place / "model"), str(place / "cut"), *text, *asked)
    printed = capfd.readouterr()
    assert code == 0, said + printed.err
    model = AutoModelForCausalLM.from_pretrained(place / "cut", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(place / "cut")
    assert model.config.vocab_size == len(tokenizer) == 320
    assert f"{model.num_parameters():,}" in printed.out
    assert "2 of 2" in printed.out
    ids = tokenizer(PARAGRAPH, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == PARAGRAPH
    assert (place / "cut" / "vocabulary.json").is_file()
    assert not list(place.glob(".*"))


@pytest.mark.usefixtures("in_this_process")
def test_documents_of_the_corpus_are_held_out(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code, said = vocab(
        str(place / "model"), str(place / "other"), "--size", "300", "--text", str(place / "text.txt")
    )
    printed = capfd.readouterr()
    assert code == 0, said + printed.err
    assert "1 of 1" in printed.out  # of 24, that with number 19


@pytest.mark.usefixtures("in_this_process")
def test_what_cannot_be_leaves_nothing_behind(
    place: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model, out, text = str(place / "model"), str(place / "none"), str(place / "text.txt")
    assert vocab(model, out, "--size", "40", "--text", text)[0] == 1
    assert "nearest valid: 259" in capfd.readouterr().err
    code, said = vocab(model, out, "--size", "0", "--text", text)
    assert code == 2
    assert "greater than or equal to 1" in said
    (tmp_path / "corpus.md").write_text("text")
    code, said = vocab(model, out, "--size", "300", "--text", str(tmp_path / "corpus.md"))
    assert code == 2
    assert ".parquet" in said
    assert vocab(model, str(place), "--size", "300", "--text", text)[0] == 1
    assert "exists" in capfd.readouterr().err
    assert not (place / "none").exists()
    assert not list(place.glob(".*"))
