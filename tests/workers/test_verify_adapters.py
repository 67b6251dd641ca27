"""The adapter that recovery training writes finds its place on a model of every type, when it is opened."""

from pathlib import Path
from typing import Literal

import pytest
import torch

from pipeline.architecture.rows import row_for
from pipeline.spec.recovery import Lora
from tests.model_configs import DENSE
from tests.models import Kind, tiny_checkpoint
from tests.workers.test_lora import names_of, pruned_model
from workers.training.lora import adapter_files, apply_lora
from workers.verification.answer import Opening
from workers.verification.opening import open_model

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),  # peft asks
]


@pytest.mark.parametrize("weights", ["in_memory", "from_disk"])
@pytest.mark.parametrize("kind", DENSE)
def test_our_adapters_open(kind: Kind, weights: Literal["in_memory", "from_disk"], tmp_path: Path) -> None:
    directory = tiny_checkpoint(kind, tmp_path / "model")
    model, _ = pruned_model(kind, directory)
    names, lora = names_of(model), Lora(rank=3, alpha=5.5)
    apply_lora(model, lora, {}, names=names)
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    (directory / "adapter").mkdir()
    files = adapter_files(trained, lora, row=row_for(kind), base_model="checkpoint 0123")
    for name, data in files.items():
        (directory / "adapter" / name).write_bytes(data)
    (tmp_path / "aside").mkdir()
    opening = Opening(
        directory=directory, aside=tmp_path / "aside", weights=weights, threads=1, adapter="adapter"
    )
    opened = open_model(opening)
    assert opened.adapter_tensors == len(trained)
    assert torch.get_num_threads() == 1
