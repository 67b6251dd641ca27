"""The Llama-like types against the whole model in transformers: each passes once through everything that
docs/models.md says of it. What the other types get from many files of tests is here in one, because a type is
a line of data, and every test costs as often as there are types."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from pipeline.allocations import Uniform
from pipeline.architecture.rows import row_for
from pipeline.artifacts.refs import CheckpointRef
from pipeline.checkpoint.keeps import keep_ref
from pipeline.checkpoint.scoring import StoredModel
from pipeline.checkpoint.skeleton import disk_names
from pipeline.checkpoint.slicing import slice_checkpoint
from pipeline.checkpoint.stream import BlockStream
from pipeline.errors import InvalidSpec
from pipeline.masks.certify import certify
from pipeline.methods.wanda import Wanda
from pipeline.spec.structure import Structure
from pipeline.structure.sizes import sizes_of
from tests.checkpoints import imported
from tests.exported import export, exported
from tests.llama_like_checkpoints import llama_like_checkpoint
from tests.llama_like_configs import LLAMA_LIKE
from tests.model_configs import VOCABULARY
from tests.pruned_by_loops import HALF, pruned_by_loops
from tests.shrunk import as_if_cut
from tests.stored import Stored
from tests.sweeping import prune_in_process

pytestmark = pytest.mark.usefixtures("one_thread", "no_gradients")

SAMPLES = tuple(torch.arange(first, first + 24) * 13 % VOCABULARY for first in (2, 57, 111))
# What is asked of every type at once, unless its row says that it cannot be cut.
ASKED = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 56}


@dataclass(frozen=True)
class Dense(Stored):
    """A checkpoint of a type."""

    def model(self) -> PreTrainedModel:
        """The whole model."""
        return loaded(self.directory)


def loaded(directory: Path) -> PreTrainedModel:
    """With stock transformers, which must use every tensor and miss none."""
    model, notes = AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, output_loading_info=True
    )
    assert not notes["unexpected_keys"], notes
    assert not notes["mismatched_keys"], notes
    assert not [key for key in notes["missing_keys"] if key != "lm_head.weight"], notes
    return model.eval()


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory):
    """Checkpoints by name, made once."""

    @cache
    def made(name: str) -> Dense:
        base = tmp_path_factory.mktemp(name)
        directory = llama_like_checkpoint(name, base / "model")
        return Dense(directory, *imported(directory, base / "store"))

    return made


@pytest.mark.parametrize("name", LLAMA_LIKE)
def test_streaming_gives_the_bits_of_the_whole_model(name: str, stored) -> None:
    dense = stored(name)
    stream = BlockStream(dense.reader, dtype=torch.float32, device=torch.device("cpu"))
    hidden = list(stream.embed(SAMPLES))
    for block in range(stream.num_blocks):
        names = stream.block_tensors(block)
        stream.load(block, {inside: dense.reader.tensor(disk) for inside, disk in names.items()})
        hidden = [stream.run(block, one) for one in hidden]
    stream.load_head()
    whole = dense.model()
    for tokens, one in zip(SAMPLES, hidden, strict=True):
        assert torch.equal(stream.logits(tokens, one), whole(input_ids=tokens[None]).logits[0])


@pytest.mark.parametrize("name", LLAMA_LIKE)
def test_pruning_is_that_of_the_whole_model_and_loads(name: str, stored, tmp_path: Path) -> None:
    dense = stored(name)
    model = dense.model()
    on_disk = disk_names(model, dense.reader)
    loops = pruned_by_loops(model, LLAMA_LIKE[name][0], [*SAMPLES])
    expected = {on_disk[key]: keep for key, keep in loops.items()}

    got = prune_in_process(
        dense.content, dense.ref, SAMPLES, method=Wanda(), allocation=Uniform(), pattern=HALF
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


def asked_of(name: str, dense: Dense) -> dict[str, int]:
    """The sizes of ASKED that the row lets change in this model."""
    row = row_for(LLAMA_LIKE[name][0])
    fixed = {size for one in row.fixed if one.holds(dense.config) for size in one.sizes}
    return {size: value for size, value in ASKED.items() if size not in fixed}


@pytest.mark.parametrize("name", LLAMA_LIKE)
def test_a_cut_model_computes_what_the_dense_one_does_without_what_went(
    name: str, stored, tmp_path: Path
) -> None:
    dense = stored(name)
    row = row_for(LLAMA_LIKE[name][0])
    asked = asked_of(name, dense)
    structure = Structure.model_validate(
        {**asked, "drop_blocks": {"kind": "explicit", "blocks": [0]}, "criterion": {"kind": "magnitude"}}
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
    oracle = as_if_cut(dense.model(), cut, sizes_of(row, dense.config))
    own = torch.stack([one % len(tokens) for one in SAMPLES])
    expected = oracle(input_ids=torch.tensor(tokens)[own], use_cache=False).logits[..., list(tokens)]
    found = model(input_ids=own, use_cache=False).logits
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize(
    ("name", "size", "why"),
    [
        ("olmo2", "num_attention_heads", "norm over all heads"),
        ("olmo3", "num_key_value_heads", "norm over all heads"),
        ("stablelm-head-norms", "hidden_size", "each of its heads has a norm"),
        ("phi-head-norms", "hidden_size", "hidden_size / num_attention_heads"),
    ],
)
def test_what_cannot_be_cut_is_refused_by_name(name: str, size: str, why: str, stored) -> None:
    row, config = row_for(LLAMA_LIKE[name][0]), stored(name).config
    asked = Structure.model_validate({size: getattr(sizes_of(row, config), size) // 2})
    with pytest.raises(InvalidSpec, match=rf"{row.model_type}.* keeps its {size}=.*{why}") as refused:
        asked.target(row, config)
    assert refused.value.param == f"spec.structure.{size}"
