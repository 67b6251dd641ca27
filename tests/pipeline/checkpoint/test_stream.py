"""Streaming one block at a time gives the bits of the whole model in transformers."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from pipeline.checkpoint.reader import CheckpointReader
from pipeline.checkpoint.skeleton import disk_names, skeleton
from pipeline.checkpoint.stream import BlockStream
from tests.checkpoints import imported
from tests.models import EVERY, tiny_checkpoint

LENGTHS = (24, 7)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("kind", EVERY)
def test_streamed_logits_equal_the_whole_models_bit_for_bit(kind: str, tmp_path: Path) -> None:
    directory = tiny_checkpoint(kind, tmp_path / "model")
    content, checkpoint = imported(directory, tmp_path / "store")
    whole = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(1)
    top = whole.config.vocab_size
    sequences = [torch.randint(0, top, (length,), generator=generator) for length in LENGTHS]

    stream = BlockStream(
        CheckpointReader(content, checkpoint), dtype=torch.float32, device=torch.device("cpu")
    )
    reader = CheckpointReader(content, checkpoint)
    with torch.no_grad():
        hidden = list(stream.embed(sequences))
        for block in range(stream.num_blocks):
            names = stream.block_tensors(block)
            stream.load(block, {name: reader.tensor(disk) for name, disk in names.items()})
            hidden = [stream.run(block, one) for one in hidden]
            stream.release(block)
        stream.load_head()
        for tokens, one in zip(sequences, hidden, strict=True):
            expected = whole(input_ids=tokens[None]).logits[0]
            assert torch.equal(stream.logits(tokens, one), expected)


def test_only_one_block_holds_weights(tmp_path: Path) -> None:
    directory = tiny_checkpoint("llama", tmp_path / "model")
    content, checkpoint = imported(directory, tmp_path / "store")
    reader = CheckpointReader(content, checkpoint)
    stream = BlockStream(reader, dtype=torch.float32, device=torch.device("cpu"))
    list(stream.embed([torch.arange(8)]))
    for block in range(stream.num_blocks):
        module = stream.load(
            block, {name: reader.tensor(disk) for name, disk in stream.block_tensors(block).items()}
        )
        assert all(parameter.device.type == "cpu" for parameter in module.parameters())
        stream.release(block)
        assert all(parameter.device.type == "meta" for parameter in module.parameters())


def test_skeletons_may_be_built_side_by_side(tmp_path: Path) -> None:
    directory = tiny_checkpoint("llama", tmp_path / "model")  # its embedding is tied to its head
    content, checkpoint = imported(directory, tmp_path / "store")
    reader = CheckpointReader(content, checkpoint)

    def names(_: int) -> dict[str, str]:
        return disk_names(skeleton(reader, torch.float32), reader)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # what one thread does while another builds is met within a few builds
    try:
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(names, range(64)))
    finally:
        sys.setswitchinterval(before)
    assert found == [names(0)] * 64
    assert nn.Linear(2, 2).weight.device.type == "cpu"
