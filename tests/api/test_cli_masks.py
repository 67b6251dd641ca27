"""`secateur apply-mask` and `compare-masks`, as a user types them."""

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file
from typer.testing import CliRunner

from api.cli.main import app
from tests.pipeline.masks.made_masks import Made, made_masks


def said(capfd: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    capfd.readouterr()
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    printed = capfd.readouterr()
    return done.exit_code, printed.out + done.stdout, printed.err


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return made_masks("gpt2", tmp_path_factory.mktemp("masks"))


def test_masks_are_applied(made: Made, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    published = tmp_path / "published"
    (published / "masks").mkdir(parents=True)
    shutil.copyfile(made.file, published / "masks" / "masks.safetensors")
    code, out, err = said(capfd, "apply-mask", made.model, published, tmp_path / "pruned")
    assert code == 0, err
    weights = sum(keep.numel() for keep in made.keeps.values())
    assert f"{weights // 2:,} of {weights:,} weights in {len(made.keeps)} tensors are zero" in out
    assert "warning" not in err
    pruned = load_file(tmp_path / "pruned" / "model.safetensors")
    for name, keep in made.keeps.items():
        assert not pruned[name].t()[~keep].any()


@pytest.mark.usefixtures("in_this_process")
def test_masks_of_other_weights_are_applied_when_asked_for(
    made: Made, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    published = tmp_path / "published"
    (published / "masks").mkdir(parents=True)
    shutil.copyfile(made.file, published / "masks" / "masks.safetensors")
    assert said(capfd, "apply-mask", made.model, published, tmp_path / "pruned")[0] == 0
    pruned = load_file(tmp_path / "pruned" / "model.safetensors")
    code, _, err = said(capfd, "apply-mask", tmp_path / "pruned", published, tmp_path / "none")
    assert code == 1
    assert "--other-weights" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pruned", "published"]
    code, _, err = said(
        capfd, "apply-mask", tmp_path / "pruned", published, tmp_path / "again", "--other-weights"
    )
    assert code == 0
    assert f"warning: {len(made.keeps)} tensors are not the weights" in err
    assert load_file(tmp_path / "again" / "model.safetensors").keys() == pruned.keys()
    assert said(capfd, "apply-mask", made.model, tmp_path / "published" / "masks", tmp_path / "none")[0] == 1
    assert said(capfd, "apply-mask", made.model, tmp_path / "nowhere", tmp_path / "none")[0] == 2


def test_masks_are_compared(made: Made, capfd: pytest.CaptureFixture[str]) -> None:
    code, out, err = said(capfd, "compare-masks", made.file, made.file)
    assert code == 0, err
    assert out.splitlines()[-1].split() == ["mean", "of", "all", "linears", "1.0000", "1.0000"]
    assert len(out.splitlines()) == 2 + len(made.keeps)


@pytest.mark.usefixtures("in_this_process")
def test_other_masks_are_compared(made: Made, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    other = made_masks("gpt2", tmp_path, seed=1)
    code, out, err = said(capfd, "compare-masks", made.file, other.file)
    name = "transformer.h.1.mlp.c_fc.weight"
    line = next(line.split() for line in out.splitlines() if line.startswith(name))
    ours, theirs = made.keeps[name], other.keeps[name]
    same = (ours.reshape(-1, 4) == theirs.reshape(-1, 4)).all(1).float().mean()
    assert line[1:] == [f"{same:.4f}", f"{(ours & theirs).sum() / ours.sum():.4f}"]
    bits = made_masks("gpt2", tmp_path / "bits", nm=None)
    assert "(weights, not groups)" in said(capfd, "compare-masks", made.file, bits.file)[1]
    llama = made_masks("llama", tmp_path / "llama")
    code, out, err = said(capfd, "compare-masks", made.file, llama.file)
    assert code == 1
    assert f"{llama.file} has no mask for transformer.h.0" in err
