"""What training loads is the model that transformers loads, for every type, with dropout off."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.checkpoints import imported
from tests.model_configs import EVERY
from tests.models import tiny_checkpoint
from workers.training.model import load_model


@pytest.mark.parametrize("name", EVERY)
def test_the_model_that_is_trained(name: str, tmp_path: Path) -> None:
    directory = tiny_checkpoint(name, tmp_path / "model")
    content, checkpoint = imported(directory, tmp_path / "store")
    loaded = load_model(content, checkpoint, dtype=torch.float32, device=torch.device("cpu"))
    model = loaded.model
    assert loaded.stored.keys() == {key for key, _ in model.named_parameters()}
    whole = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    tokens = torch.arange(48).reshape(2, 24)
    with torch.no_grad():
        assert torch.equal(model.train()(input_ids=tokens).logits, whole(input_ids=tokens).logits)
