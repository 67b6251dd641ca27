"""Commands that work on this machine, without a process of their own: that would import torch each time."""

import contextlib
import importlib
import io
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

_started = subprocess.run


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """`python -m MODULE` is a call of its `main`, which prints where a child would. One test of each command
    does without this fixture and starts the real process."""
    monkeypatch.setattr(subprocess, "run", _run)


def _run(command: list[str], **options: Any) -> subprocess.CompletedProcess[Any]:
    if command[:2] != [sys.executable, "-m"]:
        return _started(command, **options)
    _, _, module, *arguments = command
    with _standing_in(arguments, options.get("input") or b""):
        try:
            importlib.import_module(module).main()
        except SystemExit as ended:
            return subprocess.CompletedProcess(command, int(ended.code or 0))
    return subprocess.CompletedProcess(command, 0)


@contextlib.contextmanager
def _standing_in(arguments: list[str], given: bytes) -> Iterator[None]:
    """Arguments and streams as a child has them."""
    assert sys.__stdout__ is not None
    assert sys.__stderr__ is not None
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(sys.__stdout__),
        contextlib.redirect_stderr(sys.__stderr__),
    ):
        patch.setattr(sys, "argv", ["python -m", *arguments])
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))
        yield
        sys.stdout.flush()
