"""The commands for packed weights and for models that run from them, as a user types them."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from safetensors.torch import load_file
from starlette.testclient import TestClient
from typer.testing import CliRunner

from api.cli.main import app
from secateur.sparse import commands, measuring
from tests.models import tiny_tokenizer
from tests.sparse.answering import TEMPLATE
from tests.sparse.pruned import pruned_checkpoint


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pruned checkpoint whose tokenizer has a chat template."""
    directory = pruned_checkpoint("llama", tmp_path_factory.mktemp("cli") / "model", sparsity=0.8)
    tokenizer = tiny_tokenizer("llama")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(directory)
    return directory


def said(capfd: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    capfd.readouterr()
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    printed = capfd.readouterr()
    return done.exit_code, printed.out + done.stdout, printed.err


@pytest.mark.slow
def test_a_process_of_its_own_packs(model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code, out, err = said(capfd, "pack", model, tmp_path / "packed", "--values", "int8", "--group", "64")
    assert code == 0, err
    assert f"{tmp_path}/packed: 28 matrices packed" in out
    assert "note: int8 does not hold every weight" in err


@pytest.mark.usefixtures("in_this_process")
def test_what_is_packed_is_unpacked(model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert said(capfd, "pack", model, tmp_path / "packed", "--values", "int8")[0] == 0
    code, _, err = said(capfd, "unpack", tmp_path / "packed", tmp_path / "again")
    assert code == 1
    assert "--lossy" in err.splitlines()[-1]
    assert not (tmp_path / "again").exists()
    file = tmp_path / "packed" / "model.safetensors"
    code, _, err = said(capfd, "unpack", file, tmp_path / "one.safetensors", "--lossy")
    assert code == 0, err
    names = load_file(tmp_path / "one.safetensors").keys()
    assert names == load_file(model / "model.safetensors").keys()


@pytest.mark.usefixtures("in_this_process")
def test_a_text_is_continued(model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    options = ["--max-tokens", "6", "--threads", "1"]
    code, out, err = said(capfd, "generate", model, "The gardener", *options)
    assert code == 0, err
    assert out.startswith("The gardener")
    assert "28 of 29 matrices are sparse, with 80.0% zeros and float32 values; kernels: " in err
    assert "1 stay dense: it shares its weight with the embedding" in err
    stop = out.removeprefix("The gardener")[1:3]
    _, stopped, _ = said(capfd, "generate", model, "The gardener", *options, "--stop", stop)
    assert stopped.strip() == out[: out.index(stop, len("The gardener"))].strip()
    drawn = [*options, "--temperature", "1.5", "--top-p", "0.9", "--seed", "3", "--values", "int8"]
    once, again = (said(capfd, "generate", model, "The", *drawn)[:2] for _ in range(2))
    assert once == again


def test_a_chat_keeps_what_was_said(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["commands", "chat", str(model), "--max-tokens", "3", "--threads", "1"])
    monkeypatch.setattr("sys.stdin", io.StringIO("Hello\nAnd then?\n"))
    seen: list[list[dict[str, str]]] = []
    ids_of_chat = commands.Answerer.ids_of_chat

    def noted(self: Any, messages: list[dict[str, str]]) -> list[int]:
        seen.append(list(messages))
        return ids_of_chat(self, messages)

    monkeypatch.setattr(commands.Answerer, "ids_of_chat", noted)
    commands.main()
    first, second = seen
    assert first == [{"role": "user", "content": "Hello"}]
    assert [one["role"] for one in second] == ["user", "assistant", "user"]
    assert capsys.readouterr().out.startswith(f"{second[1]['content']}\n")


def test_a_model_is_measured_in_every_form(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Within this process; the next test starts a real one."""
    seen: list[str] = []

    def here(asked: measuring.Request) -> measuring.Measured:
        seen.append(asked.form)
        return measuring.measured_here(asked)

    monkeypatch.setattr(measuring, "_in_a_fresh_process", here)
    options = ["--prompt-tokens", "4", "--generated-tokens", "3", "--rounds", "2", "--threads", "1"]
    monkeypatch.setattr("sys.argv", ["commands", "bench-speed", str(model), *options])
    commands.main()
    assert seen == [*measuring.FORMS, *measuring.FORMS[::-1]]
    out = capsys.readouterr().out
    assert "28 of 29 matrices are sparse" in out
    for form in measuring.FORMS:
        assert f"{form:13} generated, tokens/s" in out


@pytest.mark.slow
def test_a_form_is_measured_in_a_fresh_process(model: Path) -> None:
    (form, one), *_ = measuring.measured_rounds(
        model, values=None, prompt_tokens=4, generated_tokens=3, rounds=1, threads=1
    )
    assert form == "sparse"
    assert min(one.prefill, one.decode, one.first_token, one.memory) > 0
    assert json.dumps(one.said)


def test_a_model_is_served(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """uvicorn gets an app that answers, on loopback."""
    started: dict[str, Any] = {}

    def run(served: FastAPI, **options: Any) -> None:
        started.update(options)
        with TestClient(served) as client:
            body = {"model": "small", "prompt": "The", "max_tokens": 2}
            assert client.post("/v1/completions", json=body).status_code == 200
            assert client.post("/v1/completions", json=body | {"max_tokens": 9}).status_code == 400

    monkeypatch.setattr("uvicorn.run", run)
    options = ["--name", "small", "--max-tokens", "8", "--threads", "1"]
    monkeypatch.setattr("sys.argv", ["commands", "serve-model", str(model), *options])
    commands.main()
    assert (started["host"], started["port"]) == ("127.0.0.1", 8021)


def test_a_directory_that_is_no_checkpoint_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["commands", "pack", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        commands.main()
    assert ended.value.code == 1
    assert "name the directory of a checkpoint" in capsys.readouterr().err
