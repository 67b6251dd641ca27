"""The Llama-like types in whole jobs, in training, and where they are refused."""

from pathlib import Path

import pytest
import torch
from pydantic import TypeAdapter
from transformers import AutoModelForCausalLM

from pipeline.architecture.rows import row_for
from pipeline.checkpoint.keeps import load_keep
from pipeline.checkpoint.megatron.args import sizes_for_megatron
from pipeline.errors import InvalidSpec, UnsupportedModel
from pipeline.serving.shapes import check_target
from pipeline.spec.targets import Target
from pipeline.structure.sizes import sizes_of
from tests.checkpoints import imported
from tests.llama_like_checkpoints import llama_like_checkpoint
from tests.llama_like_configs import LLAMA_LIKE, LLAMA_LIKE_TYPES
from tests.model_configs import tiny_config
from tests.workers.outcomes import curve_of, weights_of
from tests.workers.test_verify_rows import verified
from tests.workers.training_runs import Call, Folder, prepare, run_all
from workers.training.model import load_model

TARGET: TypeAdapter[Target] = TypeAdapter(Target)


@pytest.mark.usefixtures("one_thread", "opened_here")
@pytest.mark.parametrize("name", LLAMA_LIKE)
def test_the_result_of_a_job_opens_with_the_same_bits(name: str, tmp_path: Path) -> None:
    found = verified(tmp_path, name)
    assert found.opened.logits.largest_difference == 0
    assert found.opened.generated > 0
    assert found.zeros > 0
    assert found.remarks == ()


@pytest.mark.usefixtures("one_thread", "no_gradients")
@pytest.mark.parametrize("name", LLAMA_LIKE)
def test_the_model_that_is_trained_has_no_dropout(name: str, tmp_path: Path) -> None:
    config = tiny_config(name)
    for field in [field for field in vars(config) if "dropout" in field or field.endswith("_pdrop")]:
        setattr(config, field, 0.5)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "model")
    content, checkpoint = imported(tmp_path / "model", tmp_path / "store")
    loaded = load_model(content, checkpoint, dtype=torch.float32, device=torch.device("cpu"))
    model = loaded.model
    assert loaded.stored.keys() == {key for key, _ in model.named_parameters()}
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32).eval()
    tokens = torch.arange(48).reshape(2, 24)
    assert torch.equal(model.train()(input_ids=tokens).logits, whole(input_ids=tokens).logits)


@pytest.mark.slow
def test_training_learns_and_holds_zeros(tmp_path: Path) -> None:
    """For those whose parameters differ the most from Llama's: biases of the head, and activations that are
    trained."""
    tiny = {
        name: prepare(tmp_path / name, model=llama_like_checkpoint(name, tmp_path / name / "model"))
        for name in ("phi", "apertus")
    }
    trained = {
        f"{name} {trains}": (one, one.work({"steps": 8, "trains": {"kind": trains}}, key=f"{name}{trains}"))
        for name, one in tiny.items()
        for trains in ("full", "lora")
    }
    calls = [Call(work, Folder(tmp_path / "runs" / name)) for name, (_, work) in trained.items()]
    outcomes = run_all(tmp_path / "runs", calls, workers=1)
    for (name, (one, _)), outcome in zip(trained.items(), outcomes, strict=True):
        curve = curve_of(one, outcome)
        assert curve.validations[-1].loss < curve.validations[0].loss, name
        weights = weights_of(one, outcome)
        for tensor, keep in load_keep(one.content, one.pruned, one.keep).items():
            assert not weights[tensor][~keep].any(), (name, tensor)


@pytest.mark.parametrize("model_type", LLAMA_LIKE_TYPES)
def test_what_is_not_known_to_work_is_refused_by_name(model_type: str) -> None:
    config = tiny_config(next(name for name, (kind, _) in LLAMA_LIKE.items() if kind == model_type)).to_dict()
    with pytest.raises(UnsupportedModel, match=rf"'{model_type}' has no Megatron layout here; known types"):
        sizes_for_megatron(config)
    for kind in ("llama.cpp", "onnxruntime", "openvino"):
        with pytest.raises(InvalidSpec, match=f"{model_type} (cannot be written as GGUF|is not exported)"):
            check_target(
                TARGET.validate_python({"kind": kind}),
                model_type=model_type,
                config=config,
                sizes=sizes_of(row_for(model_type), config),
                field="spec.target.0",
            )
