"""The types with linear attention, latent attention or experts of their own kind, against transformers' own
model. Each test makes its model itself or takes one that was made once."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from pipeline.allocations import Uniform
from pipeline.architecture.rows import row_for
from pipeline.artifacts.refs import CheckpointRef
from pipeline.blocks.local import LocalCrew
from pipeline.checkpoint.keeps import keep_ref, load_keep
from pipeline.checkpoint.reader import CheckpointReader
from pipeline.checkpoint.scoring import StoredModel
from pipeline.checkpoint.skeleton import disk_names
from pipeline.checkpoint.slicing import slice_checkpoint
from pipeline.checkpoint.stream import BlockStream
from pipeline.errors import InvalidSpec
from pipeline.masks.certify import certify
from pipeline.methods.wanda import Wanda
from pipeline.planning.shape import shape_of
from pipeline.spec.structure import Structure
from pipeline.structure.sizes import expert_groups, has_experts, sizes_of
from pipeline.structure.widths import kind_of_block
from tests.checkpoints import imported
from tests.exported import export, exported
from tests.model_configs import VOCABULARY
from tests.own_checkpoints import own_checkpoint
from tests.own_configs import OWN
from tests.pruned_by_loops import HALF, pruned_by_loops
from tests.shrunk import as_if_cut
from tests.stored import Stored
from tests.sweeping import measured_statistics, prune_in_process

pytestmark = pytest.mark.usefixtures("one_thread", "no_gradients")

SAMPLES = tuple(torch.arange(first, first + 24) * 13 % VOCABULARY for first in (2, 57, 111))
# What is asked of every type at once, if it has the size and lets it change.
ASKED = {
    "hidden_size": 32,
    "num_attention_heads": 2,
    "intermediate_size": 56,
    "num_experts": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 24,
}
ROUTERS = ("mlp.gate.weight", "mlp.router.weight", "shared_expert_gate.weight", "conv1d.weight")


@dataclass(frozen=True)
class Dense(Stored):
    """The checkpoint of a configuration of OWN."""

    name: str


def loaded(directory: Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """With stock transformers, which must use every tensor and miss none."""
    model, notes = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype, output_loading_info=True)
    assert not notes["unexpected_keys"], notes
    assert not notes["mismatched_keys"], notes
    assert not notes["missing_keys"], notes
    return model.eval()


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory):
    """Checkpoints by name, made once."""

    @cache
    def made(name: str) -> Dense:
        base = tmp_path_factory.mktemp(name)
        directory = own_checkpoint(name, base / "model")
        return Dense(directory, *imported(directory, base / "store"), name)

    return made


def streamed(dense: Dense, dtype: torch.dtype) -> list[torch.Tensor]:
    """The logits of SAMPLES, with one block in memory at a time."""
    stream = BlockStream(dense.reader, dtype=dtype, device=torch.device("cpu"))
    hidden = list(stream.embed(SAMPLES))
    for block in range(stream.num_blocks):
        names = stream.block_tensors(block)
        stream.load(block, {inside: dense.reader.tensor(disk) for inside, disk in names.items()})
        hidden = [stream.run(block, one) for one in hidden]
    stream.load_head()
    return [stream.logits(tokens, one) for tokens, one in zip(SAMPLES, hidden, strict=True)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", OWN)
def test_streaming_gives_the_bits_of_the_whole_model(name: str, dtype: torch.dtype, stored) -> None:
    dense = stored(name)
    whole = loaded(dense.directory, dtype)
    for tokens, logits in zip(SAMPLES, streamed(dense, dtype), strict=True):
        assert torch.equal(logits, whole(input_ids=tokens[None]).logits[0])


@pytest.mark.parametrize("name", OWN)
def test_pruning_is_that_of_the_whole_model_and_loads(name: str, stored, tmp_path: Path) -> None:
    dense = stored(name)
    model = loaded(dense.directory)
    on_disk = disk_names(model, dense.reader)
    loops = pruned_by_loops(model, OWN[name][0], [*SAMPLES])
    expected = {on_disk[key]: keep for key, keep in loops.items()}

    got = prune_in_process(
        dense.content, dense.ref, SAMPLES, method=Wanda(), allocation=Uniform(), pattern=HALF, workers=2
    )
    assert got.keep.keys() == expected.keys()
    for key, keep in expected.items():
        assert torch.equal(got.keep[key], keep), key
    ref = exported(dense.content, dense.ref, got.made, tmp_path / "pruned")
    linears = [linear for block in got.blocks for linear in block.linears]
    kept = keep_ref(dense.content, [block.keep for block in got.blocks], linears)
    assert certify(dense.content, ref, kept, at="published")[1].tensors == len(expected)
    after = CheckpointReader(dense.content, ref).index.tensors
    oriented = load_keep(dense.content, ref, kept)
    assert {key: keep.shape for key, keep in oriented.items()} == {key: after[key].shape for key in expected}
    again = loaded(tmp_path / "pruned").state_dict()
    assert again.keys() == model.state_dict().keys()
    for key, tensor in model.state_dict().items():
        assert torch.equal(again[key], tensor), key


@pytest.mark.parametrize("name", ["qwen3_next", "glm4_moe", "deepseek_v3", "gpt_oss"])
def test_groups_are_in_the_order_in_which_they_run(name: str, stored) -> None:
    dense = stored(name)
    got = prune_in_process(
        dense.content,
        dense.ref,
        SAMPLES[:2],
        method=Wanda(),
        allocation=Uniform(),
        pattern=HALF,
        propagation="linear",
    )
    assert all(2 * int(keep.sum()) == keep.numel() for keep in got.keep.values())


def asked_of(dense: Dense) -> dict[str, int]:
    """The sizes of ASKED that the row lets change in this model."""
    row = row_for(OWN[dense.name][0])
    fixed = {size for one in row.fixed if one.holds(dense.config) for size in one.sizes}
    asked = {size: value for size, value in ASKED.items() if size in row.sizes and size not in fixed}
    if "num_experts" in asked and (groups := expert_groups(row, dense.config)) > 1:
        asked["num_experts"] = 2 * groups  # a router ranks groups by their best two
    return asked


@pytest.mark.parametrize("name", OWN)
def test_a_cut_model_computes_what_the_dense_one_does_without_what_went(
    name: str, stored, tmp_path: Path
) -> None:
    dense = stored(name)
    row = row_for(OWN[name][0])
    structure = Structure.model_validate(
        {
            **asked_of(dense),
            "drop_blocks": {"kind": "explicit", "blocks": [0]},
            "criterion": {"kind": "magnitude"},
        }
    )
    new = structure.target(row, dense.config)
    cut = structure.cut(row, dense.config, StoredModel(dense.content, dense.reader))
    tokens = tuple(range(0, VOCABULARY, 3))
    cut = cut.model_copy(update={"vocabulary": tokens})
    specials = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    *_, smaller = slice_checkpoint(dense.content, dense.reader, cut, like=dense.ref, changes=specials)
    assert isinstance(smaller, CheckpointRef)

    model = loaded(export(dense.content, smaller, tmp_path / "cut"))
    assert sizes_of(row, model.config.to_dict()) == new.model_copy(update={"vocab_size": len(tokens)})
    oracle = as_if_cut(loaded(dense.directory), cut, sizes_of(row, dense.config))
    own = torch.stack([one % len(tokens) for one in SAMPLES])
    expected = oracle(input_ids=torch.tensor(tokens)[own], use_cache=False).logits[..., list(tokens)]
    found = model(input_ids=own, use_cache=False).logits
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("name", ["qwen3_next", "deepseek_v3", "gpt_oss"])
def test_activations_score_every_part_that_a_block_has(name: str, stored) -> None:
    dense = stored(name)
    row = row_for(OWN[name][0])
    crew = LocalCrew(dense.content, dense.ref, SAMPLES, workers=1)
    needs = frozenset({"input_norm", "channel_score"})
    statistics = measured_statistics(crew, needs=needs, samples=len(SAMPLES))
    model = StoredModel(dense.content, dense.reader, statistics)
    for scores in (model.activations(), model.magnitudes()):
        assert (scores.hidden_H > 0).all()
        for number, block in enumerate(scores.blocks):
            linear = kind_of_block(row, dense.config, number) == "linear_attention"
            assert (block.heads_A is None) == linear
            assert block.heads_A is None or (block.heads_A > 0).all()
            mixture = has_experts(row, dense.config, number)
            assert (block.experts_E is not None) == (block.expert_ffn_EG is not None) == mixture
            if block.experts_E is not None and block.expert_ffn_EG is not None:
                reached = block.experts_E > 0
                assert reached.any()
                assert (block.expert_ffn_EG[reached] > 0).all()


@pytest.mark.parametrize("name", OWN)
def test_the_plan_counts_the_weights_of_every_block(name: str, stored) -> None:
    dense = stored(name)
    row = row_for(OWN[name][0])
    blocks = loaded(dense.directory).get_submodule(row.blocks)
    shape = shape_of(row, dense.config, sizes_of(row, dense.config))
    for block, counted in zip(blocks.children(), shape.blocks, strict=True):
        weights = {
            key: weight.numel()
            for key, weight in block.named_parameters()
            if weight.dim() > 1 and not key.endswith((*ROUTERS, "_bias"))
        }
        assert sum(weights.values()) == counted.weights, weights


@pytest.mark.parametrize(
    ("name", "size", "why"),
    [
        ("minimax_m2", "num_attention_heads", "norm over all heads"),
    ],
)
def test_what_cannot_be_cut_is_refused_by_name(name: str, size: str, why: str, stored) -> None:
    row, config = row_for(OWN[name][0]), stored(name).config
    asked = Structure.model_validate({size: getattr(sizes_of(row, config), size) // 2})
    with pytest.raises(InvalidSpec, match=rf"{row.model_type}.*{why}") as refused:
        asked.target(row, config)
    assert refused.value.param == f"spec.structure.{size}"
