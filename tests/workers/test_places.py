"""Every stage has a runner, and nobody imports for long what it does not use."""

import subprocess
import sys

import pytest

from workers.places import PLACES


def test_every_stage_has_a_runner() -> None:
    assert all(callable(place.run) for place in PLACES.values())


@pytest.mark.parametrize(
    ("needed", "spared"),
    [
        ("workers.places, workers.stages.import_model, workers.training.mailbox", "torch"),
        ("workers.driver, workers.stages.prune, workers.stages.evaluate", "transformers.modeling_utils"),
        ("workers.stages.verify", "transformers"),  # so that the process which imports it starts at once
    ],
    ids=["task", "driver", "verify"],
)
def test_processes_start_without_what_others_need(needed: str, spared: str) -> None:
    """They are many: each second of imports is one for every task, actor and driver of every job."""
    code = f"import sys, {needed}; sys.exit({spared!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
