"""Training with compiled blocks is training as before, but for rounding."""

from pathlib import Path

import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from tests.workers.outcomes import curve_of, keeps_of, weights_of
from tests.workers.training_runs import Call, Folder, prepare, run_all

pytestmark = pytest.mark.slow

SPLIT = {"zero_stage": 2, "micro_batch_size": 2}


def plant_compiled() -> None:
    """Every block of the model must have been compiled when it runs."""
    honest = LlamaDecoderLayer.__call__

    def called(self: LlamaDecoderLayer, *args: object, **kwargs: object) -> object:
        assert torch.compiler.is_compiling() or self._compiled_call_impl is not None
        return honest(self, *args, **kwargs)

    LlamaDecoderLayer.__call__ = called


def test_compiled_blocks_learn_alike_and_hold_their_zeros(tmp_path: Path) -> None:
    tiny = prepare(tmp_path / "model", "llama")
    calls = []
    for way, plant in (("plain", None), ("compiled", plant_compiled)):
        work = tiny.work({"steps": 3}, {**SPLIT, "compile": way == "compiled"}, key=way)
        calls.append(Call(work, Folder(tmp_path / way), plant))
    plain, compiled = run_all(tmp_path, calls, workers=1)
    ours, theirs = curve_of(tiny, compiled), curve_of(tiny, plain)
    assert [step.loss for step in ours.steps] == pytest.approx([step.loss for step in theirs.steps], abs=1e-4)
    assert [one.loss for one in ours.validations] == pytest.approx(
        [one.loss for one in theirs.validations], abs=1e-4
    )
    weights = weights_of(tiny, compiled)
    for tensor, keep in keeps_of(tiny, compiled).items():
        assert not weights[tensor][~keep].any(), tensor
