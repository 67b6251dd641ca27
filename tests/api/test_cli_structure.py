"""`secateur slice` on a local checkpoint, as a user types it."""

from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from api.cli.main import app
from tests.models import tiny_checkpoint, tiny_text


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("slice")
    tiny_checkpoint("llama", place / "model")
    tiny_text(place)
    return place


def slice_(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["slice", *arguments])
    return done.exit_code, done.output


@pytest.mark.slow
def test_a_checkpoint_is_cut(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    fields = ["intermediate_size=64", "hidden_size=48", "drop_blocks.kind=spaced", "drop_blocks.num_blocks=3"]
    asked = [part for field in fields for part in ("--set", field)]
    text = ["--calibration", str(place / "text.txt"), "--samples", "4", "--sequence-length", "32"]
    code, said = slice_(str(place / "model"), str(place / "cut"), *asked, *text)
    printed = capfd.readouterr()
    assert code == 0, said + printed.err
    model = AutoModelForCausalLM.from_pretrained(place / "cut")
    config = model.config
    assert (config.hidden_size, config.intermediate_size, config.num_hidden_layers) == (48, 64, 3)
    assert f"{model.num_parameters():,}" in printed.out
    assert "hidden_size=48 is no multiple of 128" in printed.out
    assert (place / "cut" / "tokenizer.json").is_file()
    cut = place / "cut" / "cut.json"
    explicit = place / "explicit.json"
    explicit.write_text(f'{{"criterion": {{"kind": "explicit", "cut": {cut.read_text()}}}}}')
    assert slice_(str(place / "model"), str(place / "again"), "--structure", str(explicit))[0] == 0
    for shard in (place / "cut").glob("*.safetensors"):
        assert (place / "again" / shard.name).read_bytes() == shard.read_bytes()
    assert sorted(path.name for path in place.iterdir() if path.name.startswith(".")) == []


@pytest.mark.usefixtures("in_this_process")
def test_a_plan_needs_the_config_alone(
    place: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_bytes((place / "model" / "config.json").read_bytes())
    assert slice_(str(tmp_path), "--plan", "--set", "num_attention_heads=2")[0] == 0
    printed = capfd.readouterr().out
    assert "num_key_value_heads" in printed
    assert list(tmp_path.iterdir()) == [tmp_path / "config.json"]


@pytest.mark.usefixtures("in_this_process")
def test_a_vocabulary_is_planned_and_left_to_its_own_command(
    place: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    asked = tmp_path / "asked.json"
    asked.write_text(f'{{"vocabulary": {{"size": 300, "texts": [{{"source": "file:{place}/text.txt"}}]}}}}')
    code, said = slice_(str(place / "model"), str(place / "none"), "--structure", str(asked))
    assert code == 2
    assert "secateur vocab" in said
    assert "vocabulary" in said
    assert not (place / "none").exists()
    assert slice_(str(place / "model"), "--plan", "--structure", str(asked))[0] == 0
    assert "300" in capfd.readouterr().out


@pytest.mark.usefixtures("in_this_process")
def test_what_cannot_be_leaves_nothing_behind(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model, out = str(place / "model"), str(place / "none")
    code, said = slice_(model, out, "--set", "hiden_size=48")
    assert code == 2
    assert "did you mean 'hidden_size'" in said
    assert slice_(model, "--set", "hidden_size=48")[0] == 2  # no directory, and no --plan
    assert slice_(model, out, "--set", "num_attention_heads=3", "--set", "num_key_value_heads=2")[0] == 1
    assert "nearest valid: 2, 4" in capfd.readouterr().err
    assert slice_(model, out, "--set", "hidden_size=48")[0] == 1
    assert "name a text with --calibration" in capfd.readouterr().err
    assert not (place / "none").exists()
