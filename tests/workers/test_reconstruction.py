"""Block-wise reconstruction: nearer to the dense model, zeros held, alike on two workers and after a stop."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from pipeline.allocations import Uniform
from pipeline.artifacts.curve import BlockFit
from pipeline.artifacts.refs import CheckpointRef, KeepRef
from pipeline.blocks.pruning import pruned_checkpoint, pruned_keep
from pipeline.checkpoint.assemble import StoredTensors, assemble
from pipeline.checkpoint.reader import CheckpointReader
from pipeline.checkpoint.stream import BlockStream
from pipeline.checkpoint.writer import put_tensors
from pipeline.masks.certify import certify
from pipeline.methods.magnitude import Magnitude
from pipeline.spec.patterns import Unstructured
from pipeline.spec.recovery import Reconstruction, Recovery
from pipeline.spec.training_recipe import LearningRate, Optimizer, TrainingText
from pipeline.storage import ContentStore
from pipeline.tensor.divergence import divergence_each
from tests.checkpoints import imported
from tests.models import Kind, tiny_checkpoint, tiny_documents, tiny_tokenizer
from tests.sweeping import prune_in_process
from tests.workers.crews import together
from workers.training.reconstruction import reconstruct

LENGTH = 32
Fitted = list[tuple[BlockFit, dict[str, Tensor]]]


@dataclass
class Made:
    content: ContentStore
    dense: CheckpointRef
    pruned: CheckpointRef
    keep: KeepRef
    directory: Path


def recovery(**changes: object) -> Recovery:
    fields: dict[str, object] = {
        "text": TrainingText(source="file:/text.txt", sequence_length=LENGTH),
        "trains": Reconstruction(epochs=4),
        "steps": 6,
        "global_batch_size": 4,
        "learning_rate": LearningRate(peak=3e-3, warmup_steps=2),
        "optimizer": Optimizer(weight_decay=0.01),
    }
    return Recovery.model_validate(fields | changes)


@cache
def text() -> Tensor:
    documents = tiny_tokenizer("llama")(tiny_documents(count=20)).input_ids
    return torch.cat([torch.tensor(document) for document in documents])


def sequence(i: int) -> Tensor:
    """The i-th sequence of the training text."""
    return text()[i * LENGTH : (i + 1) * LENGTH]


def made(kind: Kind, directory: Path, *, dtype: str = "float32") -> Made:
    content, dense = imported(tiny_checkpoint(kind, directory / "model", dtype=dtype), directory / "store")
    with torch.no_grad():
        swept = prune_in_process(
            content,
            dense,
            [],
            method=Magnitude(),
            allocation=Uniform(),
            pattern=Unstructured(sparsity=0.5),
        )
    pruned = pruned_checkpoint(content, dense, swept.made)
    return Made(content, dense, pruned, pruned_keep(content, swept.made), directory)


def fitted(
    it: Made,
    asked: Recovery,
    *,
    micro_batch_size: int = 2,
    dtype: torch.dtype = torch.float32,
    done: Sequence[StoredTensors] = (),
) -> Fitted:
    return list(
        reconstruct(
            asked,
            it.content,
            dense=it.dense,
            pruned=it.pruned,
            keep=it.keep,
            sequence=sequence,
            micro_batch_size=micro_batch_size,
            dtype=dtype,
            device=torch.device("cpu"),
            done=done,
        )
    )


def stored(it: Made, blocks: Fitted) -> list[StoredTensors]:
    return [StoredTensors.of(put_tensors(it.content, "block", tensors)) for _, tensors in blocks]


def recovered(it: Made, blocks: Fitted) -> CheckpointRef:
    reader = CheckpointReader(it.content, it.pruned)
    inside = {name for _, tensors in blocks for name in tensors}
    outer = {name: reader.tensor(name) for name in reader.index.tensors if name not in inside}
    return assemble(
        it.content,
        it.pruned,
        [StoredTensors.of(put_tensors(it.content, "outer", outer)), *stored(it, blocks)],
    )


@torch.no_grad()
def logits(it: Made, checkpoint: CheckpointRef) -> Tensor:
    """Of sequences that were not trained on, [T, V]."""
    reader = CheckpointReader(it.content, checkpoint)
    stream = BlockStream(reader, dtype=torch.float32, device=torch.device("cpu"))
    sequences = [sequence(i) for i in range(40, 48)]
    hidden = list(stream.embed(sequences))
    for block in range(stream.num_blocks):
        names = stream.block_tensors(block)
        stream.load(block, {name: reader.tensor(disk) for name, disk in names.items()})
        hidden = [stream.run(block, one) for one in hidden]
    stream.load_head()
    return torch.cat([stream.logits(tokens, one) for tokens, one in zip(sequences, hidden, strict=True)])


def same(one: Fitted, other: Fitted) -> bool:
    return [fit for fit, _ in one] == [fit for fit, _ in other] and all(
        torch.equal(tensors[name], again[name])
        for (_, tensors), (_, again) in zip(one, other, strict=True)
        for name in tensors | again
    )


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("llama", "float32"), ("gpt2", "float32"), ("qwen3", "bfloat16"), ("qwen2_moe", "float32")],
)
def test_nearer_to_the_dense_model_with_every_zero(kind: Kind, dtype: str, tmp_path: Path) -> None:
    it = made(kind, tmp_path, dtype=dtype)
    blocks = fitted(it, recovery(), dtype=getattr(torch, dtype))
    for fit, tensors in blocks:
        assert 0 < fit.after < 0.9 * fit.before
        assert {one.dtype for one in tensors.values()} == {getattr(torch, dtype)}
    checkpoint = recovered(it, blocks)
    _, before = certify(it.content, it.pruned, it.keep, at="mask")
    _, after = certify(it.content, checkpoint, it.keep, at="save")
    assert after.zeros == before.zeros == after.held
    dense, pruned, mended = (logits(it, one) for one in (it.dense, it.pruned, checkpoint))
    assert (
        divergence_each(mended, dense, "forward").mean()
        < 0.8 * divergence_each(pruned, dense, "forward").mean()
    )


def test_going_on_after_stored_blocks_gives_the_same_bits(tmp_path: Path) -> None:
    it = made("llama", tmp_path)
    whole = fitted(it, recovery())
    assert [fit.block for fit, _ in whole] == [0, 1, 2, 3]
    for count in (1, 3):
        assert same(fitted(it, recovery(), done=stored(it, whole[:count])), whole[count:])


def test_what_does_not_help_is_not_kept(tmp_path: Path) -> None:
    it = made("llama", tmp_path)
    reader = CheckpointReader(it.content, it.pruned)
    wild = recovery(learning_rate=LearningRate(kind="constant", peak=1.0, warmup_steps=0))
    for fit, tensors in fitted(it, wild):
        assert fit.after == fit.before
        assert all(torch.equal(one, reader.tensor(name)) for name, one in tensors.items())


@pytest.mark.slow
def test_two_workers_fit_as_one_does(tmp_path: Path) -> None:
    it = made("llama", tmp_path)
    together(_worker, it, workers=2)
    alone = fitted(it, recovery())
    two = [torch.load(tmp_path / f"rank-{rank}.pt", weights_only=False) for rank in range(2)]
    assert same(two[0], two[1])
    for (fit, tensors), (again, others) in zip(alone, two[0], strict=True):
        assert again.after == pytest.approx(fit.after, rel=1e-4)
        for name, tensor in tensors.items():
            torch.testing.assert_close(others[name], tensor, atol=1e-5, rtol=1e-5)


def _worker(rank: int, port: int, it: Made) -> None:
    torch.set_num_threads(1)
    os.environ.update(GLOO_SOCKET_IFNAME="lo")
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    try:
        torch.save(fitted(it, recovery()), it.directory / f"rank-{rank}.pt")
    finally:
        dist.destroy_process_group()
