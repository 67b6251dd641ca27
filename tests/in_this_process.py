"""Runs commands within the test's process, because a process of their own would import torch each time."""

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
    """Replace `python -m MODULE` by a call of its `main`, which prints to the same streams as a child. One
    test of each command starts the real process, without this fixture."""
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
    """Give `main` the arguments and streams that a child would have."""
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
