"""The types with something of their own in whole jobs, in training, and where they are refused."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from pipeline.architecture.rows import row_for
from pipeline.checkpoint.keeps import load_keep
from pipeline.errors import InvalidSpec
from pipeline.resolve.model_checks import check_masks_learnable
from pipeline.sources import SourceAccess, open_source
from pipeline.spec.uri import file_uri
from tests.checkpoints import imported
from tests.own_checkpoints import own_checkpoint
from tests.own_configs import OWN, OWN_TYPES
from tests.workers.outcomes import curve_of, weights_of
from tests.workers.test_verify_rows import verified
from tests.workers.training_runs import Call, Folder, prepare, run_all
from workers.local.doctor import findings
from workers.training.model import load_model


@pytest.mark.usefixtures("one_thread", "opened_here")
@pytest.mark.parametrize("name", ["qwen3_next", "deepseek_v3", "gpt_oss"])
def test_the_result_of_a_job_opens_with_the_same_bits(name: str, tmp_path: Path) -> None:
    found = verified(tmp_path, name)
    assert found.opened.logits.largest_difference == 0
    assert found.opened.generated > 0
    assert found.zeros > 0
    assert found.remarks == ()


@pytest.mark.usefixtures("one_thread", "no_gradients")
@pytest.mark.parametrize("name", OWN)
def test_the_model_that_is_trained_computes_what_the_whole_one_does(name: str, tmp_path: Path) -> None:
    content, checkpoint = imported(own_checkpoint(name, tmp_path / "model"), tmp_path / "store")
    loaded = load_model(content, checkpoint, dtype=torch.float32, device=torch.device("cpu"))
    assert loaded.stored.keys() == {key for key, _ in loaded.model.named_parameters()}
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32).eval()
    tokens = torch.arange(48).reshape(2, 24)
    assert torch.equal(loaded.model.train()(input_ids=tokens).logits, whole(input_ids=tokens).logits)


@pytest.mark.slow
def test_training_learns_and_holds_zeros(tmp_path: Path) -> None:
    """For the one whose experts are slices of stored tensors, with biases."""
    one = prepare(tmp_path / "made", model=own_checkpoint("gpt_oss", tmp_path / "model"))
    work = one.work({"steps": 8, "trains": {"kind": "full"}}, key="full")
    (outcome,) = run_all(tmp_path / "runs", [Call(work, Folder(tmp_path / "runs" / "full"))], workers=1)
    curve = curve_of(one, outcome)
    assert curve.validations[-1].loss < curve.validations[0].loss
    weights = weights_of(one, outcome)
    for tensor, keep in load_keep(one.content, one.pruned, one.keep).items():
        assert not weights[tensor][~keep].any(), tensor


@pytest.mark.parametrize("model_type", OWN_TYPES)
def test_masks_are_learned_for_those_without_experts_alone(model_type: str) -> None:
    if row_for(model_type).experts is None:
        check_masks_learnable(model_type, "spec.prune.method.kind")
        return
    with pytest.raises(InvalidSpec, match=f"{model_type} has experts, and their masks cannot be learned yet"):
        check_masks_learnable(model_type, "spec.prune.method.kind")


@pytest.mark.parametrize("name", ["qwen3_5_moe_text", "deepseek_v3", "gpt_oss"])
def test_the_doctor_says_what_works(name: str, tmp_path: Path) -> None:
    directory = own_checkpoint(name, tmp_path / "model")
    source = open_source(file_uri(directory), SourceAccess(allowed_roots=(tmp_path,)))
    config = AutoModelForCausalLM.from_pretrained(directory).config.to_dict()
    found = {one.what.partition("=")[0]: one.why_not for one in findings(source, config)}
    assert found["pruning, cutting blocks"] is None
    assert found["cutting hidden_size"] is None
    assert found["cutting num_attention_heads"] is None
    assert found["recovery training"] is None
    assert "experts" in str(found["learned masks"])
    assert found["cutting num_experts"] is None
