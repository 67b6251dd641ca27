"""Encoder-decoders against the whole model in transformers: both stacks are streamed, measured, pruned and
cut."""

import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForSeq2SeqLM, PreTrainedModel

from pipeline.allocations import Uniform
from pipeline.architecture.rows import row_for
from pipeline.artifacts.refs import CheckpointRef
from pipeline.blocks.local import LocalCrew
from pipeline.blocks.logits import streamed_logits
from pipeline.blocks.losses import sequence_losses
from pipeline.blocks.pruning import PrunedBlocks, Pruning, prune_blocks
from pipeline.blocks.steps import run_through
from pipeline.checkpoint.importing import Remark, import_checkpoint
from pipeline.checkpoint.keeps import keep_ref
from pipeline.checkpoint.paired_stream import open_stream
from pipeline.checkpoint.prunable import prunable_weights
from pipeline.checkpoint.reader import CheckpointReader
from pipeline.checkpoint.skeleton import disk_names
from pipeline.errors import WorkerLost
from pipeline.masks.certify import certify
from pipeline.methods import OneShot
from pipeline.methods.magnitude import Magnitude
from pipeline.methods.sparsegpt import SparseGPT
from pipeline.methods.wanda import Wanda
from pipeline.resolve.model import model_pin
from pipeline.sources import SourceAccess, open_source
from pipeline.spec.patterns import NM
from pipeline.spec.propagation import Propagation
from pipeline.storage import ContentStore, LocalStore
from pipeline.storage.progress import StageProgress
from pipeline.structure.sizes import prefixes
from pipeline.tensor.pairs import parted
from tests import oracles, sweeping
from tests.checkpoints import imported
from tests.encoder_decoder_checkpoints import encoder_decoder, loaded, pairs, run_whole
from tests.encoder_decoder_configs import ENCODER_DECODERS
from tests.exported import exported
from tests.pipeline.blocks.test_leaving import LeavingCrew
from tests.pruned_by_loops import HALF, norms
from tests.simulated_device import GPU, simulated_gpu
from tests.sweeping import prune_in_process

STACKS = ("encoder", "decoder")

pytestmark = pytest.mark.usefixtures("one_thread", "no_gradients")


@pytest.mark.parametrize("name", ENCODER_DECODERS)
def test_streaming_gives_the_bits_of_the_whole_model(name: str, paired) -> None:
    dense, sequences = paired(name), [*pairs(2), *pairs(1, read=20, written=4)]
    stream = open_stream(dense.reader, dtype=torch.float32, device=torch.device("cpu"))
    assert stream.num_blocks == 5
    hidden = list(stream.embed(sequences))
    for block in range(stream.num_blocks):
        names = stream.block_tensors(block)
        stream.load(block, {inside: dense.reader.tensor(disk) for inside, disk in names.items()})
        hidden = [stream.run(block, one) for one in hidden]
        stream.release(block)
    stream.load_head()
    whole = loaded(dense.directory)
    for pair, one in zip(sequences, hidden, strict=True):
        assert torch.equal(stream.logits(pair, one), run_whole(whole, pair))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_narrow_types_give_the_bits_of_the_whole_model(dtype: str, tmp_path: Path) -> None:
    """In float16 transformers keeps some linears in float32, and with them the hidden states."""
    directory = encoder_decoder("t5-gated", tmp_path / "model", dtype=dtype)
    content, ref = imported(directory, tmp_path / "store")
    whole = AutoModelForSeq2SeqLM.from_pretrained(directory).eval()
    [pair] = pairs(1)
    streamed = streamed_logits(CheckpointReader(content, ref), pair, dtype=whole.dtype)
    assert whole.dtype == getattr(torch, dtype)
    assert torch.equal(streamed, run_whole(whole, pair))


def test_what_older_libraries_stored_beside_a_model_is_left_out(paired, tmp_path: Path) -> None:
    """T5's repositories have the embedding three times, and relative positions of cross-attention that no
    library reads."""
    shutil.copytree(paired("t5").directory, tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    tensors = load_file(file)
    copies = {f"{stack}.embed_tokens.weight": tensors["shared.weight"].clone() for stack in STACKS}
    unread = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    save_file({**tensors, **copies, unread: torch.ones(8, 4)}, file, metadata={"format": "pt"})
    source = open_source(f"file:{tmp_path / 'model'}", SourceAccess(allowed_roots=(tmp_path,)))
    content = ContentStore(LocalStore(tmp_path / "store"))
    steps = list(import_checkpoint(model_pin(source), source, content))
    assert [unread in step.text for step in steps if isinstance(step, Remark)] == [True]
    assert isinstance(steps[-1], CheckpointRef)
    stored = CheckpointReader(content, steps[-1]).index.tensors
    assert not copies.keys() & stored.keys()
    got = prune_in_process(content, steps[-1], pairs(2), method=Wanda(), allocation=Uniform(), pattern=HALF)
    exported(content, steps[-1], got.made, tmp_path / "pruned")
    assert torch.equal(loaded(tmp_path / "pruned").shared.weight, tensors["shared.weight"])


@pytest.mark.parametrize("name", ENCODER_DECODERS)
def test_pruning_is_that_of_the_whole_model_and_loads(name: str, paired, tmp_path: Path) -> None:
    dense, model = paired(name), loaded(paired(name).directory)
    expected = pruned_by_loops(model, ENCODER_DECODERS[name][0], pairs(3))
    assert {key: disk_names(model, dense.reader)[key] for key in expected} == {key: key for key in expected}

    got = prune_in_process(
        dense.content, dense.ref, pairs(3), method=Wanda(), allocation=Uniform(), pattern=HALF, workers=2
    )
    assert got.keep.keys() == expected.keys()
    for key, keep in expected.items():
        assert torch.equal(got.keep[key], keep), key
    ref = exported(dense.content, dense.ref, got.made, tmp_path / "pruned")
    linears = [linear for block in got.blocks for linear in block.linears]
    kept = keep_ref(dense.content, [block.keep for block in got.blocks], linears)
    assert certify(dense.content, ref, kept, at="published")[1].tensors == len(expected)
    again = loaded(tmp_path / "pruned").state_dict()
    assert again.keys() == model.state_dict().keys()
    for key, tensor in model.state_dict().items():
        assert torch.equal(again[key], tensor), key


def pruned_by_loops(model: PreTrainedModel, kind: str, sequences: list[Tensor]) -> dict[str, Tensor]:
    """Wanda on the whole model: the encoder's blocks, then the decoder's, each with the earlier ones
    pruned."""
    row = row_for(kind)
    keeps = {}
    for prefix in prefixes(row, model.config.to_dict()):
        inside = dict(model.get_submodule(prefix.rstrip(".")).named_modules())
        linears = {name: inside[name] for name in row.linear_names if name in inside}
        inputs = inputs_of(model, linears, sequences)
        for name, linear in linears.items():
            saliency = oracles.wanda_saliency(linear.weight.numpy(), norms(inputs[name]))
            keep = torch.from_numpy(oracles.keep_rows_exact(saliency, HALF.sparsity))
            linear.weight.masked_fill_(~keep, 0)
            keeps[f"{prefix}{name}.weight"] = keep
    return keeps


def inputs_of(
    model: PreTrainedModel, linears: dict[str, nn.Module], sequences: list[Tensor]
) -> dict[str, list[np.ndarray]]:
    """What each linear sees of each pair, [T, I]."""
    inputs: dict[str, list[np.ndarray]] = {name: [] for name in linears}
    hooks = [
        module.register_forward_pre_hook(
            lambda _, args, name=name: inputs[name].append(args[0].flatten(0, -2).numpy().copy())
        )
        for name, module in linears.items()
    ]
    for pair in sequences:
        run_whole(model, pair)
    for hook in hooks:
        hook.remove()
    return inputs


@pytest.mark.parametrize(
    ("method", "propagation"),
    [(SparseGPT(), "pruned"), (SparseGPT(), "linear"), (Wanda(), "dense"), (Magnitude(), "pruned")],
)
def test_any_number_of_workers_prunes_to_the_same_bits(
    method: OneShot, propagation: Propagation, paired
) -> None:
    dense = paired("t5-gated")
    made = [
        prune_in_process(
            dense.content,
            dense.ref,
            pairs(4) if method.needs else [],
            method=method,
            allocation=Uniform(),
            pattern=NM(keep=2, group=4),
            propagation=propagation,
            workers=workers,
        )
        for workers in (1, 2, 4)
    ]
    assert len({tuple(block.weights.file.blob.digest for block in one.blocks) for one in made}) == 1
    first = made[0]
    cross = [key for key in first.keep if "EncDecAttention" in key]
    assert len(cross) == 8
    assert all(int((~first.keep[key]).sum()) * 2 == first.keep[key].numel() for key in first.keep)


@pytest.mark.parametrize("after", [2, 4])
def test_whoever_goes_on_in_either_stack_makes_the_same_bits(after: int, paired) -> None:
    """From a snapshot of the activations, with another number of workers."""
    dense = paired("t5")
    plan = Uniform().plan(HALF, prunable_weights(dense.content, dense.ref), measured=())
    asked = Pruning(method=SparseGPT(), plan=plan, propagation="pruned", samples=4)

    def walked(crew: LocalCrew, key: str) -> PrunedBlocks:
        progress = StageProgress(dense.content, key, snapshot_seconds=3600)
        return run_through(prune_blocks(crew, asked, progress=progress))

    alone = walked(LocalCrew(dense.content, dense.ref, pairs(4)), f"alone-{after}")
    leaving = LeavingCrew(dense.content, dense.ref, pairs(4))
    leaving.notice_at = after
    with pytest.raises(WorkerLost, match=f"; {after} of 5 blocks are stored"):
        walked(leaving, f"left-{after}")
    again = LocalCrew(dense.content, dense.ref, pairs(4), workers=4)
    assert walked(again, f"left-{after}").blocks == alone.blocks
    assert again.use().forwards == 4 * (5 - after - 1)  # the last block's output is not needed


@pytest.mark.parametrize("name", ["t5-gated", "umt5"])
def test_a_gpu_gives_the_bits_of_the_cpu(name: str, paired, monkeypatch: pytest.MonkeyPatch) -> None:
    dense = paired(name)
    options = {"method": Wanda(), "allocation": Uniform(), "pattern": HALF}
    here = prune_in_process(dense.content, dense.ref, pairs(2), **options)
    with simulated_gpu(), monkeypatch.context() as patch:
        patch.setattr(sweeping, "LocalCrew", partial(LocalCrew, device=GPU))
        there = prune_in_process(dense.content, dense.ref, pairs(2), **options)
        losses = run_through(sequence_losses(LocalCrew(dense.content, dense.ref, pairs(1), device=GPU), [9]))
    assert there.blocks == here.blocks
    assert losses == run_through(sequence_losses(LocalCrew(dense.content, dense.ref, pairs(1)), [9]))


@pytest.mark.parametrize("name", ["t5", "t5-gated", "umt5"])
def test_losses_are_those_of_transformers(name: str, paired) -> None:
    dense, sequences = paired(name), pairs(3)
    crew = LocalCrew(dense.content, dense.ref, sequences, workers=2)
    found = run_through(sequence_losses(crew, [9] * 3))
    whole = loaded(dense.directory)
    for pair, (total, count) in zip(sequences, found, strict=True):
        read_E, written_D = parted(pair)
        loss = whole(input_ids=read_E[None], labels=written_D[None]).loss
        assert count == len(written_D)
        assert total / count == pytest.approx(float(loss), rel=1e-5)
