"""The types whose blocks are not all alike against the whole model in transformers: each passes once through
everything that docs/models.md says of it, like the Llama-like types."""

import json
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModelForCausalLM

from pipeline.allocations import Uniform
from pipeline.architecture.rows import row_for
from pipeline.artifacts.refs import CheckpointRef
from pipeline.blocks.activations import StoredActivations
from pipeline.blocks.crew import shares_of
from pipeline.blocks.local import LocalCrew
from pipeline.checkpoint.keeps import keep_ref
from pipeline.checkpoint.scoring import StoredModel
from pipeline.checkpoint.skeleton import disk_names
from pipeline.checkpoint.slicing import slice_checkpoint
from pipeline.checkpoint.stream import BlockStream
from pipeline.errors import InvalidSpec, UnsupportedCheckpoint
from pipeline.masks.certify import certify
from pipeline.methods.wanda import Wanda
from pipeline.spec.reconstruction import BlockReconstruction
from pipeline.spec.structure import Structure
from pipeline.structure.sizes import sizes_of
from tests.checkpoints import imported
from tests.exported import export, exported
from tests.hybrid_checkpoints import hybrid_checkpoint
from tests.hybrid_configs import HYBRID
from tests.model_configs import VOCABULARY
from tests.pipeline.architecture.test_llama_like import Dense, loaded
from tests.pruned_by_loops import HALF, pruned_by_loops
from tests.shrunk import as_if_cut
from tests.sweeping import measured_statistics, prune_in_process

pytestmark = pytest.mark.usefixtures("one_thread", "no_gradients")

SAMPLES = tuple(torch.arange(first, first + 24) * 13 % VOCABULARY for first in (2, 57, 111))
# What is asked of every type at once, unless it has no such size or its row says that it cannot be cut.
ASKED = {
    "hidden_size": 32,
    "num_attention_heads": 2,
    "intermediate_size": 56,
    "num_experts": 3,
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 40,
}
SHARED = "gemma4_text-shared"


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory):
    """Checkpoints by name, made once."""

    @cache
    def made(name: str) -> Dense:
        base = tmp_path_factory.mktemp(name)
        directory = hybrid_checkpoint(name, base / "model")
        return Dense(directory, *imported(directory, base / "store"))

    return made


def streamed(dense: Dense, states: list[Tensor], stream: BlockStream) -> list[Tensor]:
    for block in range(stream.num_blocks):
        names = stream.block_tensors(block)
        stream.load(block, {inside: dense.reader.tensor(disk) for inside, disk in names.items()})
        states = [stream.run(block, one) for one in states]
    stream.load_head()
    return states


@pytest.mark.parametrize("name", HYBRID)
def test_streaming_gives_the_bits_of_the_whole_model(name: str, stored) -> None:
    dense = stored(name)
    stream = BlockStream(dense.reader, dtype=torch.float32, device=torch.device("cpu"))
    states = streamed(dense, list(stream.embed(SAMPLES)), stream)
    batch = streamed(dense, [torch.cat(list(stream.embed(SAMPLES)))], stream)[0]
    whole = dense.model()
    together = whole(input_ids=torch.stack(SAMPLES)).logits
    for i, (tokens, one) in enumerate(zip(SAMPLES, states, strict=True)):
        assert torch.equal(stream.logits(tokens, one), whole(input_ids=tokens[None]).logits[0])
        found = stream.logits(tokens, batch[i : i + 1])
        torch.testing.assert_close(found, together[i], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", HYBRID)
def test_pruning_is_that_of_the_whole_model_and_loads(name: str, stored, tmp_path: Path) -> None:
    dense = stored(name)
    model = dense.model()
    on_disk = disk_names(model, dense.reader)
    loops = pruned_by_loops(model, HYBRID[name][0], [*SAMPLES])
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
    again = loaded(tmp_path / "pruned").state_dict()
    assert again.keys() == model.state_dict().keys()
    for key, tensor in model.state_dict().items():
        assert torch.equal(again[key], tensor), key


@pytest.mark.parametrize("name", HYBRID)
def test_linears_are_reached_in_their_order(name: str, stored) -> None:
    """`propagation: linear` pauses at each group in turn, and refuses another order."""
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
    assert all(0.4 < 1 - float(keep.float().mean()) < 0.6 for keep in got.keep.values())


def asked_of(name: str, dense: Dense) -> dict[str, int]:
    """The sizes of ASKED that the type has, and that its row lets change in this model."""
    row = row_for(HYBRID[name][0])
    sizes = sizes_of(row, dense.config)
    fixed = {size for one in row.fixed if one.holds(dense.config) for size in one.sizes}
    return {
        size: value
        for size, value in ASKED.items()
        if size not in fixed and size in row.sizes and getattr(sizes, size) is not None
    }


@pytest.mark.parametrize("name", [name for name in HYBRID if name != "gemma3n_text"])
@pytest.mark.parametrize("criterion", ["magnitude", "activation"])
def test_a_cut_model_computes_what_the_dense_one_does_without_what_went(
    name: str, criterion: str, stored, tmp_path: Path
) -> None:
    dense = stored(name)
    row = row_for(HYBRID[name][0])
    old = sizes_of(row, dense.config)
    asked = asked_of(name, dense)
    deep = name != SHARED
    drop = {"drop_blocks": {"kind": "explicit", "blocks": [0]}} if deep else {}
    structure = Structure.model_validate({**asked, **drop, "criterion": {"kind": criterion}})
    new = structure.target(row, dense.config)
    statistics = None
    if structure.needs_samples:
        crew = LocalCrew(dense.content, dense.ref, SAMPLES)
        needs = frozenset({"input_norm", "channel_score"})
        statistics = measured_statistics(crew, needs=needs, samples=len(SAMPLES))
    cut = structure.cut(row, dense.config, StoredModel(dense.content, dense.reader, statistics))
    tokens = tuple(range(0, VOCABULARY, 3))
    cut = cut.model_copy(update={"vocabulary": tokens})
    specials = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    *_, smaller = slice_checkpoint(dense.content, dense.reader, cut, like=dense.ref, changes=specials)
    assert isinstance(smaller, CheckpointRef)

    directory = export(dense.content, smaller, tmp_path / "cut")
    model = loaded(directory)
    config = json.loads((directory / "config.json").read_text())
    assert sizes_of(row, config) == new.model_copy(update={"vocab_size": len(tokens)})
    oracle = as_if_cut(dense.model(), cut, old)
    own = torch.stack([one % len(tokens) for one in SAMPLES])
    expected = oracle(input_ids=torch.tensor(tokens)[own], use_cache=False).logits[..., list(tokens)]
    found = model(input_ids=own, use_cache=False).logits
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize(
    ("name", "asked", "why"),
    [
        ("gemma4_text", {"num_attention_heads": 2}, "heads of another width"),
        (SHARED, {"intermediate_size": 48}, "twice as wide"),
        (SHARED, {"drop_blocks": {"kind": "explicit", "blocks": [0]}}, "keys and values of earlier ones"),
        ("gemma3n_text", {"hidden_size": 32}, "predict each other"),
        ("gemma3n_text", {"vocabulary": {"size": 320, "texts": [{"source": "file:/t.txt"}]}}, "fewer tokens"),
        ("nemotron_h-latent", {"hidden_size": 32}, "a width of their own"),
        ("granitemoehybrid", {"hidden_size": 32}, "mamba_expand times"),
        ("lfm2", {"hidden_size": 32}, "as many channels as hidden_size"),
        ("lfm2", {"intermediate_size": 48}, "block_multiple_of"),
    ],
)
def test_what_cannot_be_cut_is_refused_by_name(name: str, asked: dict[str, object], why: str, stored) -> None:
    row, config = row_for(HYBRID[name][0]), stored(name).config
    (field,) = asked
    said = rf"{row.model_type}.* keeps its .*{why}.*leave .*{field}"
    with pytest.raises(InvalidSpec, match=said) as refused:
        Structure.model_validate(asked).target(row, config)
    assert refused.value.param == f"spec.structure.{field}"


@pytest.mark.parametrize(
    ("name", "changed", "has"),
    [
        (
            "gemma4_text",
            {"enable_moe_block": True, "top_k_experts": 2, "moe_intermediate_size": 32},
            "router",
        ),
        ("granitemoehybrid", {"num_experts_per_tok": 2}, "block_sparse_moe"),
    ],
)
def test_experts_that_the_row_does_not_know_are_refused(
    name: str, changed: dict[str, object], has: str, tmp_path: Path
) -> None:
    kind, config = HYBRID[name]
    experts = {"num_experts": 4, "num_local_experts": 4, "vocab_size": VOCABULARY, "pad_token_id": 0}
    made = AutoConfig.for_model(kind, **{**config, **experts, **changed})
    AutoModelForCausalLM.from_config(made).save_pretrained(tmp_path / "model")
    with pytest.raises(UnsupportedCheckpoint, match=rf"a kind of {kind} that is not known .* have {has}\."):
        imported(tmp_path / "model", tmp_path / "store")


def test_a_last_block_of_a_kind_that_the_class_would_change_is_refused(stored) -> None:
    dense = stored("gemma4_text")
    structure = Structure.model_validate({"drop_blocks": {"kind": "explicit", "blocks": [1]}})
    cut = structure.cut(row_for("gemma4_text"), dense.config, StoredModel(dense.content, dense.reader))
    with pytest.raises(InvalidSpec, match=r"sliding_attention.*makes \['full_attention'\]") as refused:
        next(slice_checkpoint(dense.content, dense.reader, cut, like=dense.ref))
    assert refused.value.param == "spec.structure.drop_blocks"


def test_shared_keys_and_values_reach_later_blocks_after_a_snapshot(stored) -> None:
    """A later attempt with another number of workers continues from states of which keys and values are a
    part."""
    dense = stored(SHARED)
    first, again = (LocalCrew(dense.content, dense.ref, SAMPLES, workers=count) for count in (1, 2))
    worker = first.workers[0]
    for block in range(3):
        worker.load(block)
        worker.advance()
    worker.begin_snapshot("progress/test")
    parts = worker.snapshot(wait=True)
    assert parts is not None
    kept = StoredActivations(block=3, parts={name: (part,) for name, part in parts.items()})
    found = []
    for one, share in zip(again.workers, shares_of(SAMPLES, 2), strict=True):
        one.restore_activations(kept)
        one.load(3)
        one.advance()
        found += [loss for loss, _ in one.losses([len(tokens) - 1 for tokens in share])]
    whole = dense.model()
    for tokens, loss in zip(SAMPLES, found, strict=True):
        logits = whole(input_ids=tokens[None]).logits[0, :-1]
        assert loss == pytest.approx(float(cross_entropy(logits, tokens[1:], reduction="sum")), rel=1e-6)


def test_reconstruction_gives_the_same_bits_for_any_number_of_workers(stored) -> None:
    dense = stored(SHARED)
    spec = BlockReconstruction(epochs=2, samples_per_step=2)

    def weights(workers: int) -> dict[str, Tensor]:
        with torch.enable_grad():
            return prune_in_process(
                dense.content,
                dense.ref,
                SAMPLES,
                method=Wanda(),
                allocation=Uniform(),
                pattern=HALF,
                reconstruction=spec,
                workers=workers,
            ).weights

    alone, shared = weights(1), weights(2)
    for name, one in alone.items():
        assert torch.equal(one, shared[name]), name
