"""Encoder-decoders against the whole model in transformers: both stacks are streamed, measured, pruned and
cut."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import JsonValue
from torch import Tensor, nn
from transformers import PreTrainedModel

from pipeline.allocations import Uniform
from pipeline.architecture.rows import row_for
from pipeline.artifacts.refs import CheckpointRef
from pipeline.blocks.local import LocalCrew
from pipeline.blocks.losses import sequence_losses
from pipeline.blocks.measuring import measure_statistics
from pipeline.blocks.steps import run_through
from pipeline.checkpoint.keeps import keep_ref
from pipeline.checkpoint.paired_stream import open_stream
from pipeline.checkpoint.reader import CheckpointReader
from pipeline.checkpoint.scoring import StoredModel
from pipeline.checkpoint.skeleton import disk_names
from pipeline.checkpoint.slicing import full_config, slice_checkpoint
from pipeline.errors import InvalidSpec, UnsupportedCheckpoint
from pipeline.masks.certify import certify
from pipeline.methods import OneShot
from pipeline.methods.magnitude import Magnitude
from pipeline.methods.sparsegpt import SparseGPT
from pipeline.methods.wanda import Wanda
from pipeline.spec.patterns import NM
from pipeline.spec.propagation import Propagation
from pipeline.spec.structure import Structure
from pipeline.storage import ContentStore
from pipeline.structure.sizes import prefixes
from pipeline.tensor.pairs import joined, parted
from tests import oracles
from tests.checkpoints import imported
from tests.encoder_decoder_checkpoints import encoder_decoder, loaded
from tests.encoder_decoder_configs import ENCODER_DECODERS
from tests.exported import export, exported
from tests.pruned_by_loops import HALF, norms
from tests.sweeping import prune_in_process

pytestmark = pytest.mark.usefixtures("one_thread", "no_gradients")

TOKENS = 200


def pairs(count: int, *, read: int = 14, written: int = 9) -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    sides = [torch.randint(3, TOKENS, (read + written,), generator=generator) for _ in range(count)]
    return [joined(side[:read], side[read:]) for side in sides]


@dataclass(frozen=True)
class Stored:
    """A checkpoint in a directory and in a store."""

    directory: Path
    content: ContentStore
    ref: CheckpointRef

    @property
    def reader(self) -> CheckpointReader:
        """Reads it from the store."""
        return CheckpointReader(self.content, self.ref)

    @property
    def config(self) -> dict[str, JsonValue]:
        """Its config.json."""
        return full_config(self.reader.config)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory):
    """Checkpoints by name, made once."""

    @cache
    def made(name: str) -> Stored:
        base = tmp_path_factory.mktemp(name)
        directory = encoder_decoder(name, base / "model")
        return Stored(directory, *imported(directory, base / "store"))

    return made


def run_whole(model: PreTrainedModel, pair_L: Tensor) -> Tensor:
    """The logits [D, V] of a pair in transformers, which shifts what is written by itself."""
    read_E, written_D = parted(pair_L)
    return model(input_ids=read_E[None], labels=written_D[None]).logits[0]


@pytest.mark.parametrize("name", ENCODER_DECODERS)
def test_streaming_gives_the_bits_of_the_whole_model(name: str, stored) -> None:
    dense, sequences = stored(name), [*pairs(2), *pairs(1, read=20, written=4)]
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


@pytest.mark.parametrize("name", ENCODER_DECODERS)
def test_pruning_is_that_of_the_whole_model_and_loads(name: str, stored, tmp_path: Path) -> None:
    dense, model = stored(name), loaded(stored(name).directory)
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
    method: OneShot, propagation: Propagation, stored
) -> None:
    dense = stored("t5-gated")
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


@pytest.mark.parametrize("name", ["t5", "t5-gated", "umt5"])
def test_losses_are_those_of_transformers(name: str, stored) -> None:
    dense, sequences = stored(name), pairs(3)
    crew = LocalCrew(dense.content, dense.ref, sequences, workers=2)
    found = run_through(sequence_losses(crew, [9] * 3))
    whole = loaded(dense.directory)
    for pair, (total, count) in zip(sequences, found, strict=True):
        read_E, written_D = parted(pair)
        loss = whole(input_ids=read_E[None], labels=written_D[None]).loss
        assert count == len(written_D)
        assert total / count == pytest.approx(float(loss), rel=1e-5)


@pytest.mark.parametrize("name", ENCODER_DECODERS)
@pytest.mark.parametrize("dropped", [(0, 3), (1, 4)])
def test_a_cut_model_computes_what_the_dense_one_does_without_its_blocks(
    name: str, dropped: tuple[int, ...], stored, tmp_path: Path
) -> None:
    """Blocks 0 and 3 are the first of both stacks, which hold the relative positions of all."""
    dense = stored(name)
    row = row_for(ENCODER_DECODERS[name][0])
    structure = Structure.model_validate(
        {
            "intermediate_size": 32,
            "drop_blocks": {"kind": "explicit", "blocks": dropped},
            "criterion": {"kind": "magnitude"},
        }
    )
    cut = structure.cut(row, dense.config, StoredModel(dense.content, dense.reader))
    *_, smaller = slice_checkpoint(dense.content, dense.reader, cut, like=dense.ref)
    assert isinstance(smaller, CheckpointRef)
    model = loaded(export(dense.content, smaller, tmp_path / "cut"))
    assert (model.config.num_layers, model.config.num_decoder_layers, model.config.d_ff) == (2, 1, 32)

    oracle = loaded(dense.directory)
    for block, prefix in zip(
        cut.blocks, [prefixes(row, dense.config)[b.block] for b in cut.blocks], strict=True
    ):
        gone = [channel for channel in range(48) if channel not in (block.ffn or ())]
        mlp = oracle.get_submodule(prefix.rstrip(".")).layer[-1].DenseReluDense
        mlp.wo.weight[:, gone] = 0
    for stack, first in ((oracle.encoder, 0), (oracle.decoder, 3)):
        shared = stack.block[0].layer[0].SelfAttention
        stack.block = nn.ModuleList(
            block for number, block in enumerate(stack.block) if first + number not in dropped
        )
        if row.decoder is not None and row.decoder.shared_bias is not None:
            attention = stack.block[0].layer[0].SelfAttention
            attention.has_relative_attention_bias = True
            attention.relative_attention_bias = shared.relative_attention_bias
    for pair in pairs(2):
        expected = run_whole(oracle, pair)
        assert torch.allclose(
            run_whole(model, pair), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max())
        )


def test_similarities_are_those_of_the_side_that_a_block_changes(stored) -> None:
    dense = stored("t5")
    crew = LocalCrew(dense.content, dense.ref, pairs(2))
    statistics = run_through(measure_statistics(crew, frozenset({"channel_score", "similarity"}), samples=2))
    found = StoredModel(dense.content, dense.reader, statistics).influences()
    whole = loaded(dense.directory)
    similar: dict[int, list[float]] = {}

    def hook(number: int):
        def note(_: nn.Module, args: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
            similar.setdefault(number, []).append(
                float(nn.functional.cosine_similarity(args[0], output[0], dim=-1).mean())
            )

        return note

    for number, block in enumerate([*whole.encoder.block, *whole.decoder.block]):
        block.register_forward_hook(hook(number))
    for pair in pairs(2):
        run_whole(whole, pair)
    assert found == pytest.approx([1 - np.mean(similar[number]) for number in range(5)], rel=1e-4)


def test_a_stack_keeps_one_block(stored) -> None:
    dense = stored("umt5")
    row = row_for("umt5")
    asked = Structure.model_validate({"drop_blocks": {"kind": "explicit", "blocks": [3, 4]}})
    with pytest.raises(
        InvalidSpec, match=r"leaves nothing of decoder.block, blocks 3 to 4; keep one"
    ) as refused:
        asked.foreseen(row, dense.config)
    assert refused.value.param == "spec.structure.drop_blocks"


@pytest.mark.parametrize(
    ("size", "why"), [("hidden_size", "share one width"), ("num_attention_heads", "relative")]
)
def test_what_cannot_be_cut_is_refused_by_name(size: str, why: str, stored) -> None:
    row, config = row_for("t5"), stored("t5").config
    with pytest.raises(InvalidSpec, match=rf"t5 keeps its {size}=\d+.*{why}"):
        Structure.model_validate({size: 2 if size == "num_attention_heads" else 16}).target(row, config)


def test_a_decoder_without_a_start_token_is_refused(tmp_path: Path) -> None:
    directory = encoder_decoder("t5", tmp_path / "model")
    path = directory / "config.json"
    path.write_text(path.read_text().replace('"decoder_start_token_id": 0,', ""))
    content, ref = imported(directory, tmp_path / "store")
    with pytest.raises(UnsupportedCheckpoint, match="decoder_start_token_id=None"):
        open_stream(CheckpointReader(content, ref), dtype=torch.float32, device=torch.device("cpu"))
