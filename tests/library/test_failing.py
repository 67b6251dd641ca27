"""What stays behind when a call fails: nothing that runs, and nothing on the disk."""

import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import secateur
from pipeline.errors import InvalidSpec
from tests.models import tiny_checkpoint, tiny_text
from workers.context import Progress
from workers.stages import allocate


def slowly(*arguments: object) -> Iterator[Progress]:
    """A stage that would take ten seconds, with many steps."""
    for done in range(200):
        time.sleep(0.05)
        yield Progress(done, 200)


def test_no_stage_goes_on_in_a_storage_that_is_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`allocate` starts as soon as `calibrate` has failed, before the call learns of it."""
    monkeypatch.setattr(allocate, "run", slowly)
    late = logging.Handler()
    late.emit = lambda record: time.sleep(0.3)  # type: ignore[method-assign]
    monkeypatch.setattr(logging.getLogger("workers.job"), "handlers", [late])
    tiny_checkpoint("llama", tmp_path / "model")
    text = tiny_text(tmp_path)
    (tmp_path / "latin.txt").write_bytes(text.read_bytes() + b"caf\xe9")  # found by the stage alone
    spec = {
        "calibration": {"source": f"file:{tmp_path}/latin.txt", "sequence_length": 64},
        "prune": {"method": {"kind": "wanda"}, "pattern": {"kind": "unstructured", "sparsity": 0.5}},
        "evaluation": {"perplexity": [{"source": f"file:{text}", "sequence_length": 32, "windows": 2}]},
    }
    (tmp_path / "made").mkdir()
    with pytest.raises(InvalidSpec, match="not UTF-8"):
        secateur.prune(tmp_path / "model", spec, tmp_path / "made" / "out", threads=1)
    assert [one.name for one in threading.enumerate() if one.name.startswith("stage")] == []
    assert list((tmp_path / "made").iterdir()) == []
