"""Commands on this machine refuse what is not the model of its config.json, and leave nothing behind."""

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from api.cli.main import app
from tests import bad_checkpoints
from tests.models import tiny_text
from tests.pipeline.masks.made_masks import made_masks

pytestmark = pytest.mark.usefixtures("in_this_process")
BAD = {
    bad_checkpoints.stray_biases: "attention_bias",
    bad_checkpoints.int8: "I8",
    bad_checkpoints.more_rows: "392",
}


def run(*arguments: str) -> int:
    return CliRunner().invoke(app, list(arguments)).exit_code


@pytest.mark.parametrize("make", BAD)
def test_every_command_that_reads_a_checkpoint(
    make: Callable[[Path], Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model, out = str(make(tmp_path / "model")), str(tmp_path / "out")
    text = str(tiny_text(tmp_path / "texts"))
    masks = str(made_masks("llama", tmp_path / "masks").file)
    commands = (
        ("slice", model, out, "--set", "intermediate_size=64", "--set", "criterion.kind=magnitude"),
        ("vocab", model, out, "--size", "300", "--text", text),
        ("convert", model, out, "--to", "torch_dist"),
        ("apply-mask", model, masks, out),
    )
    for command in commands:
        assert run(*command) == 1, command
        assert BAD[make] in capfd.readouterr().err.splitlines()[-1], command
        assert not Path(out).exists()


def test_slice_says_what_it_does_not_read_and_what_it_changed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = bad_checkpoints.two_heads(tmp_path / "model")
    asked = ("--set", "intermediate_size=64", "--set", "criterion.kind=magnitude")
    assert run("slice", str(model), str(tmp_path / "out"), *asked) == 0
    assert "lm_head.weight is not model.embed_tokens.weight" in capfd.readouterr().err
    assert '"tie_word_embeddings": false' in (tmp_path / "out" / "config.json").read_text()
    assert not (tmp_path / "out" / "remarks.json").exists()
