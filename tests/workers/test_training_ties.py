"""What is trained is what is evaluated and stored, whatever config and file say about tied weights."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM

from pipeline.artifacts.curve import Curve
from pipeline.artifacts.refs import CheckpointRef
from pipeline.checkpoint.reader import CheckpointReader
from pipeline.errors import CorruptObject
from tests import bad_checkpoints
from tests.workers.training_runs import Prepared, prepare, run_one
from workers.harness.files import materialise_checkpoint
from workers.training.certified import check_digests, tensor_digest

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"

pytestmark = pytest.mark.slow


def perplexity_in_transformers(tiny: Prepared, checkpoint: CheckpointRef, directory: Path) -> float:
    """Of the held-out sequences, with the model that a user of the stored checkpoint gets."""
    directory.mkdir()
    materialise_checkpoint(checkpoint, tiny.content, directory)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    path = directory / "validation.safetensors"
    path.write_bytes(tiny.content.get_bytes(tiny.tokens.file("validation.safetensors")))
    rows = load_file(path)["tokens"].long()
    with torch.no_grad():
        logits = model(input_ids=rows).logits[:, :-1]
    return math.exp(float(nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())))


@pytest.mark.parametrize("same", [False, True])
@pytest.mark.parametrize("workers", [1, 2])
def test_the_stored_model_is_the_trained_one(same: bool, workers: int, tmp_path: Path) -> None:
    """A head beside a config that says that it is the embedding: one of its own, or a copy of it."""
    tiny = prepare(tmp_path, model=bad_checkpoints.two_heads(tmp_path / "model", same=same))
    work = tiny.work({"learning_rate": {"peak": 1e-2, "warmup_steps": 0}})
    outcome = run_one(tmp_path / "run", work, workers=workers)
    assert outcome.error is None
    assert outcome.result is not None
    checkpoint = outcome.result.artifacts["checkpoint"]
    assert isinstance(checkpoint, CheckpointRef)
    curve = outcome.result.artifacts["curve"].load(tiny.content, Curve)
    found = perplexity_in_transformers(tiny, checkpoint, tmp_path / "stored")
    assert found == pytest.approx(curve.validations[-1].perplexity, rel=1e-4)
    before, after = CheckpointReader(tiny.content, tiny.dense), CheckpointReader(tiny.content, checkpoint)
    heads = [EMBEDDING] if same else [EMBEDDING, HEAD]
    assert [name for name in (EMBEDDING, HEAD) if name in after.index.tensors] == heads
    for name in heads:
        assert not torch.equal(before.tensor(name), after.tensor(name)), f"{name} was not trained"


def test_a_tensor_that_is_not_the_trained_one_is_named(tmp_path: Path) -> None:
    tiny = prepare(tmp_path)
    reader = CheckpointReader(tiny.content, tiny.dense)
    name = "model.layers.1.mlp.up_proj.weight"
    good = {EMBEDDING: tensor_digest(reader.tensor(EMBEDDING)), name: tensor_digest(reader.tensor(name))}
    check_digests(tiny.content, tiny.dense, [good], trained=good)
    for digests in ({**good, name: good[EMBEDDING]}, {EMBEDDING: good[EMBEDDING]}):
        with pytest.raises(CorruptObject, match=f"{name} was trained"):
            check_digests(tiny.content, tiny.dense, [digests], trained=good)
    with pytest.raises(CorruptObject, match=HEAD):
        check_digests(tiny.content, tiny.dense, [good], trained=[HEAD])
