"""The CLI and the API say whose failure it is."""

from pathlib import Path

import pytest

from pipeline.errors import Blame
from pipeline.job.events import AttemptFailed, FailureReason, JobFailed
from tests.api import played
from tests.api.conftest import RunningApi
from tests.api.terminal import cli, submit
from tests.models import tiny_checkpoint


@pytest.mark.parametrize(
    ("blame", "line", "whose"),
    [
        ("user", "error: at prune: it is so", "must change"),
        ("machine", "error: at prune: the machine failed: it is so", "trying again may help"),
        ("bug", "error: at prune: a bug of Secateur: it is so", "trying again does not help"),
        (None, "error: at prune: it is so", None),  # a job of an older version
    ],
)
def test_a_failure_is_shown_with_its_class(
    sqlite_api: RunningApi, blame: Blame | None, line: str, whose: str | None
) -> None:
    job = submit(sqlite_api)
    reason = FailureReason(code="x", message="it is so", node="prune", retryable=False, blame=blame)
    played.say(sqlite_api, job, AttemptFailed(reason=reason), JobFailed(reason=reason))
    with sqlite_api.secateur() as client:
        failed = client.job(job).error
    assert failed is not None
    assert failed.blame == blame
    assert cli("watch", job, url=sqlite_api.url).stderr == f"{line}\n"
    shown = cli("show", job, url=sqlite_api.url).stdout
    assert (whose in shown) if whose is not None else ("whose" not in shown)


@pytest.mark.usefixtures("in_this_process")
def test_a_command_on_this_machine_ends_in_one_line_also_for_a_bug(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from workers.local import slice as slice_command

    def broken(config: dict[str, object]) -> None:
        raise KeyError("hidden_size")

    monkeypatch.setattr(slice_command, "full_config", broken)
    tiny_checkpoint("llama", tmp_path / "model")
    assert cli("slice", str(tmp_path / "model"), "--plan", "--set", "num_attention_heads=2").exit_code == 1
    said = capfd.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("a bug of Secateur: KeyError: 'hidden_size', at workers/local/slice.py:")
    assert "Traceback" not in said
