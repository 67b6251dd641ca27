"""Paths on the command line start from the working directory, and may lead upwards."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from api.cli.main import app
from tests.models import tiny_checkpoint, tiny_documents, tiny_text

SLICE = ["--set", "intermediate_size=64"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`model/` and texts beside `here/`."""
    place = tmp_path_factory.mktemp("paths")
    tiny_checkpoint("llama", place / "model")
    tiny_text(place, documents=tiny_documents(count=30))
    (place / "table.csv").write_text("a,b\n")
    (place / "here").mkdir()
    return place


@pytest.fixture(autouse=True)
def _here(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place / "here")


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize(
    "arguments",
    [
        ["slice", "../model", "../sliced", *SLICE, "--set", "criterion.kind=magnitude"],
        [
            *("slice", "../model", "sliced", *SLICE, "--calibration", "../text.txt"),
            *("--samples", "2", "--sequence-length", "16"),
        ],
        ["slice", "../model", "--plan", *SLICE],
        ["vocab", "../model", "cut", "--size", "330", "--text", "../text.txt", "--held-out", "../text.jsonl"],
        ["convert", "../model", "../here/converted", "--to", "torch_dist"],
    ],
)
def test_every_command_takes_relative_paths(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output + capfd.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["slice", "../model", "out", *SLICE, "--calibration", "../table.csv"],
        ["vocab", "../model", "out", "--size", "330", "--text", "../table.csv"],
    ],
)
def test_a_text_in_another_format_is_a_sentence(arguments: list[str]) -> None:
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2
    assert ".jsonl" in done.output
    assert "Traceback" not in done.output
    assert done.exception is None or isinstance(done.exception, SystemExit)


@pytest.mark.usefixtures("in_this_process")
def test_slice_says_what_a_directory_is(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (place / "adapter").mkdir(exist_ok=True)
    (place / "adapter" / "adapter_config.json").write_text('{"base_model_name_or_path": "org/base"}')
    assert CliRunner().invoke(app, ["slice", "../adapter", "--plan", *SLICE]).exit_code == 1
    assert "is a LoRA adapter of org/base" in capfd.readouterr().err
