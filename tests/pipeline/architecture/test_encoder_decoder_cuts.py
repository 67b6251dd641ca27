"""Encoder-decoders that lose blocks and FFN channels, against the dense model without them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.architecture.rows import row_for
from pipeline.artifacts.refs import CheckpointRef
from pipeline.blocks.local import LocalCrew
from pipeline.blocks.measuring import measure_statistics
from pipeline.blocks.steps import run_through
from pipeline.checkpoint.paired_stream import open_stream
from pipeline.checkpoint.reader import CheckpointReader
from pipeline.checkpoint.scoring import StoredModel
from pipeline.checkpoint.slicing import slice_checkpoint
from pipeline.errors import InvalidSpec, UnsupportedCheckpoint
from pipeline.spec.structure import Structure
from pipeline.structure.sizes import prefixes
from tests.checkpoints import imported
from tests.encoder_decoder_checkpoints import encoder_decoder, loaded, pairs, run_whole
from tests.encoder_decoder_configs import ENCODER_DECODERS
from tests.exported import export

pytestmark = pytest.mark.usefixtures("one_thread", "no_gradients")


@pytest.mark.parametrize("name", ENCODER_DECODERS)
@pytest.mark.parametrize("dropped", [(0, 3), (1, 4)])
def test_a_cut_model_computes_what_the_dense_one_does_without_its_blocks(
    name: str, dropped: tuple[int, ...], paired, tmp_path: Path
) -> None:
    """Blocks 0 and 3 are the first of both stacks, which hold the relative positions of all."""
    dense = paired(name)
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


def test_similarities_are_those_of_the_side_that_a_block_changes(paired) -> None:
    dense = paired("t5")
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


def test_a_stack_keeps_one_block(paired) -> None:
    dense = paired("umt5")
    row = row_for("umt5")
    asked = Structure.model_validate({"drop_blocks": {"kind": "explicit", "blocks": [3, 4]}})
    with pytest.raises(
        InvalidSpec, match=r"leaves nothing of decoder.block, blocks 3 to 4; keep one"
    ) as refused:
        asked.foreseen(row, dense.config)
    assert refused.value.param == "spec.structure.drop_blocks"


@pytest.mark.parametrize(
    ("size", "why"), [("hidden_size", "one width serves both"), ("num_attention_heads", "relative")]
)
def test_what_cannot_be_cut_is_refused_by_name(size: str, why: str, paired) -> None:
    row, config = row_for("t5"), paired("t5").config
    with pytest.raises(InvalidSpec, match=rf"t5 keeps its {size}=\d+.*{why}"):
        Structure.model_validate({size: 2 if size == "num_attention_heads" else 16}).target(row, config)


def test_a_decoder_without_a_start_token_is_refused(tmp_path: Path) -> None:
    directory = encoder_decoder("t5", tmp_path / "model")
    path = directory / "config.json"
    path.write_text(path.read_text().replace('"decoder_start_token_id": 0,', ""))
    content, ref = imported(directory, tmp_path / "store")
    with pytest.raises(UnsupportedCheckpoint, match="decoder_start_token_id=None"):
        open_stream(CheckpointReader(content, ref), dtype=torch.float32, device=torch.device("cpu"))
