"""Every model type, and variants of it, against the whole model in transformers and the formulas as loops."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from pipeline.allocations import Uniform
from pipeline.architecture.rows import ROWS, row_for
from pipeline.artifacts.refs import CheckpointRef
from pipeline.artifacts.tensor_index import TensorEntry
from pipeline.checkpoint.keeps import keep_ref, load_keep
from pipeline.checkpoint.reader import CheckpointReader
from pipeline.checkpoint.skeleton import disk_names
from pipeline.checkpoint.stream import BlockStream
from pipeline.errors import UnsupportedCheckpoint, UnsupportedModel
from pipeline.masks.certify import certify
from pipeline.methods.wanda import Wanda
from pipeline.storage import ContentStore
from tests.checkpoints import imported
from tests.encoder_decoder_configs import ENCODER_DECODER_TYPES
from tests.exported import exported
from tests.hybrid_configs import HYBRID_TYPES
from tests.llama_like_configs import LLAMA_LIKE_TYPES
from tests.model_configs import EVERY, KINDS, VOCABULARY, kind_of
from tests.models import tiny_checkpoint
from tests.own_configs import OWN_TYPES
from tests.pruned_by_loops import HALF, pruned_by_loops, whole_model
from tests.sweeping import prune_in_process

pytestmark = pytest.mark.usefixtures("one_thread", "no_gradients")


def samples(count: int = 4, length: int = 24) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(0, VOCABULARY, (length,), generator=generator) for _ in range(count)]


def entries(content: ContentStore, ref: CheckpointRef) -> dict[str, TensorEntry]:
    return CheckpointReader(content, ref).index.tensors


@pytest.mark.parametrize("name", EVERY)
def test_pruning_is_that_of_the_whole_model_and_loads_everywhere(name: str, tmp_path: Path) -> None:
    directory = tiny_checkpoint(name, tmp_path / "model")
    content, checkpoint = imported(directory, tmp_path / "store")
    model = whole_model(directory)
    reader = CheckpointReader(content, checkpoint)
    on_disk = disk_names(model, reader)
    loops = pruned_by_loops(model, kind_of(name), samples())
    expected = {on_disk[key]: keep for key, keep in loops.items()}

    got = prune_in_process(
        content, checkpoint, samples(), method=Wanda(), allocation=Uniform(), pattern=HALF, workers=2
    )
    assert got.keep.keys() == expected.keys()
    for key, keep in expected.items():
        assert torch.equal(got.keep[key], keep), key

    ref = exported(content, checkpoint, got.made, tmp_path / "pruned")
    before, after = entries(content, checkpoint), entries(content, ref)
    assert before.keys() == after.keys()
    for key, entry in after.items():
        assert (entry.dtype, entry.shape) == (before[key].dtype, before[key].shape)
        assert (entry.sha256 != before[key].sha256) == (key in expected), key
    linears = [linear for block in got.blocks for linear in block.linears]
    kept = keep_ref(content, [block.keep for block in got.blocks], linears)
    assert certify(content, ref, kept, at="published")[1].tensors == len(expected)
    oriented = load_keep(content, ref, kept)
    assert {key: keep.shape for key, keep in oriented.items()} == {key: after[key].shape for key in expected}
    again = whole_model(tmp_path / "pruned")
    assert again.state_dict().keys() == model.state_dict().keys()
    for key, tensor in again.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[key]), key
    tokens = samples(1)[0][None]
    assert torch.equal(again(input_ids=tokens).logits, model(input_ids=tokens).logits)


@pytest.mark.parametrize("name", EVERY)
def test_batches_are_called_as_the_model_calls_them(name: str, tmp_path: Path) -> None:
    directory = tiny_checkpoint(name, tmp_path / "model")
    content, checkpoint = imported(directory, tmp_path / "store")
    reader = CheckpointReader(content, checkpoint)
    stream = BlockStream(reader, dtype=torch.float32, device=torch.device("cpu"))
    hidden = torch.cat(list(stream.embed(samples(3))))
    for block in range(stream.num_blocks):
        names = stream.block_tensors(block)
        stream.load(block, {key: reader.tensor(disk) for key, disk in names.items()})
        hidden = stream.run(block, hidden)
    stream.load_head()
    whole = whole_model(directory)(input_ids=torch.stack(samples(3))).logits
    for tokens, one, expected in zip(samples(3), hidden, whole, strict=True):
        torch.testing.assert_close(stream.logits(tokens, one[None]), expected, atol=1e-5, rtol=1e-5)


def test_every_row_has_a_tiny_model() -> None:
    every = (*KINDS, *LLAMA_LIKE_TYPES, *OWN_TYPES, *HYBRID_TYPES, *ENCODER_DECODER_TYPES)
    assert sorted(ROWS) == sorted(every)


def test_a_linear_that_its_block_passes_by_is_not_measured(tmp_path: Path) -> None:
    directory = tiny_checkpoint("bloom", tmp_path / "model")
    config = (directory / "config.json").read_text()
    assert '"slow_but_exact": false' in config
    config = config.replace('"slow_but_exact": false', '"slow_but_exact": true')
    (directory / "config.json").write_text(config.replace('"pretraining_tp": 1', '"pretraining_tp": 2'))
    content, checkpoint = imported(directory, tmp_path / "store")
    with pytest.raises(UnsupportedCheckpoint, match=r"self_attention.dense is not called by its block"):
        prune_in_process(content, checkpoint, samples(), method=Wanda(), allocation=Uniform(), pattern=HALF)


def test_an_unknown_type_names_the_known_ones_and_the_file() -> None:
    with pytest.raises(UnsupportedModel, match=r"'gemma3' has no row in .*/rows.py; known types"):
        row_for("gemma3")
