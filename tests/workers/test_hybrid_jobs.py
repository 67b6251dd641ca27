"""The types whose blocks are not all alike, in whole jobs and in training."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from pipeline.checkpoint.keeps import load_keep
from pipeline.sources import open_source
from tests.checkpoints import imported
from tests.hybrid_checkpoints import hybrid_checkpoint
from tests.hybrid_configs import HYBRID
from tests.workers.outcomes import curve_of, weights_of
from tests.workers.test_verify_rows import verified
from tests.workers.training_runs import Call, Folder, prepare, run_all
from workers.local.cutting import ACCESS
from workers.local.doctor import findings
from workers.training.model import load_model


@pytest.mark.usefixtures("one_thread", "opened_here")
@pytest.mark.parametrize("name", HYBRID)
def test_the_result_of_a_job_opens_with_the_same_bits(name: str, tmp_path: Path) -> None:
    found = verified(tmp_path, name, checkpoint={"dtype": "bfloat16"})
    assert (found.opened.logits.dtype, found.opened.logits.largest_difference) == ("bfloat16", 0)
    assert found.opened.generated > 0
    assert found.zeros > 0
    assert found.remarks == ()


@pytest.mark.usefixtures("one_thread", "no_gradients")
@pytest.mark.parametrize("name", HYBRID)
def test_the_model_that_is_trained_computes_what_the_whole_one_does(name: str, tmp_path: Path) -> None:
    directory = hybrid_checkpoint(name, tmp_path / "model")
    content, checkpoint = imported(directory, tmp_path / "store")
    loaded = load_model(content, checkpoint, dtype=torch.float32, device=torch.device("cpu"))
    whole = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    tokens = torch.arange(48).reshape(2, 24)
    logits = loaded.model.train()(input_ids=tokens, use_cache=False).logits
    assert torch.equal(logits, whole(input_ids=tokens, use_cache=False).logits)


@pytest.mark.usefixtures("one_thread")
def test_the_doctor_says_what_stays(tmp_path: Path) -> None:
    directory = hybrid_checkpoint("gemma4_text-shared", tmp_path / "model")
    config = json.loads((directory / "config.json").read_text())
    found = findings(open_source(f"file:{directory}", ACCESS), config)
    told = {one.what: one.why_not for one in found}
    assert told["pruning"] is None
    assert told["cutting hidden_size=64"] is None
    assert "keys and values of earlier ones" in str(told["cutting num_hidden_layers=4"])
    assert "twice as wide" in str(told["cutting intermediate_size=96"])


@pytest.mark.slow
def test_blocks_are_fitted_and_adapted_with_their_zeros(tmp_path: Path) -> None:
    """Block by block where states hold more than hidden states; by LoRA where it cannot adapt all linears."""
    kinds = {"gemma4_text-shared": "reconstruction", "nemotron_h": "lora"}
    tiny = {
        name: prepare(tmp_path / name, model=hybrid_checkpoint(name, tmp_path / name / "model"))
        for name in kinds
    }
    works = [
        tiny[name].work({"steps": 8, "trains": {"kind": trains}}, key=name) for name, trains in kinds.items()
    ]
    calls = [Call(work, Folder(tmp_path / "runs" / name)) for name, work in zip(tiny, works, strict=True)]
    outcomes = dict(zip(tiny, run_all(tmp_path / "runs", calls, workers=1), strict=True))
    fits = curve_of(tiny["gemma4_text-shared"], outcomes["gemma4_text-shared"]).blocks
    assert len(fits) == 4
    assert all(fit.after < fit.before for fit in fits)
    losses = curve_of(tiny["nemotron_h"], outcomes["nemotron_h"]).validations
    assert losses[-1].loss < losses[0].loss
    for name, one in tiny.items():
        weights = weights_of(one, outcomes[name])
        for tensor, keep in load_keep(one.content, one.pruned, one.keep).items():
            assert not weights[tensor][~keep].any(), (name, tensor)
