"""`secateur convert` as a user types it."""

from pathlib import Path
from typing import get_args

import pytest
from typer.testing import CliRunner

from api.cli.convert import Implementation as ImplementationOption
from api.cli.convert import Layout as LayoutOption
from api.cli.main import app
from pipeline.checkpoint.megatron.convert import Layout
from pipeline.checkpoint.megatron.whole import Implementation
from tests.models import tiny_checkpoint


def convert(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["convert", *map(str, arguments)])
    return done.exit_code, done.output


@pytest.mark.slow
def test_to_megatron_and_what_cannot_be(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = tiny_checkpoint("llama", tmp_path / "model")
    assert convert(model, tmp_path / "out", "--to", "mp_rank", "--tensor-parallel", 2)[0] == 0
    assert len(list((tmp_path / "out" / "release").glob("mp_rank_*/model_optim_rng.pt"))) == 2
    assert (tmp_path / "out" / "tokenizer.json").is_file()
    capfd.readouterr()
    assert convert(tmp_path / "out", tmp_path / "none", "--to", "torch_dist", "--tensor-parallel", 3)[0] == 1
    assert "nearest: 2" in capfd.readouterr().err
    code, said = convert(model, tmp_path / "none", "--to", "zarr")
    assert code == 2
    assert "torch_dist" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "out"]


def test_the_command_knows_what_conversion_does() -> None:
    assert [str(one) for one in LayoutOption] == list(get_args(Layout))
    assert [str(one) for one in ImplementationOption] == list(get_args(Implementation))
