"""Cut checkpoints against the dense model with what goes zeroed, for every architecture and variant."""

import math
from functools import cache
from pathlib import Path

import hypothesis
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, PreTrainedModel

from pipeline.architecture.rows import row_for
from pipeline.artifacts.refs import CheckpointRef
from pipeline.checkpoint.reader import CheckpointReader
from pipeline.checkpoint.slicing import full_config, slice_checkpoint
from pipeline.storage import ContentStore
from pipeline.structure.cut import BlockCut, Cut, sizes_after
from pipeline.structure.sizes import Sizes, has_experts, has_groups, sizes_of
from tests.checkpoints import imported
from tests.exported import export
from tests.model_configs import EVERY
from tests.models import tiny_checkpoint
from tests.shrunk import as_if_cut

SPECIALS = ("bos_token_id", "eos_token_id", "pad_token_id")
TOKENS = torch.arange(2, 26).reshape(2, 12)


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory):
    """Imported tiny checkpoints by kind, made once."""

    @cache
    def made(kind: str) -> tuple[ContentStore, CheckpointRef, Path]:
        base = tmp_path_factory.mktemp("dense")
        directory = tiny_checkpoint(kind, base / "model")
        return (*imported(directory, base / "store"), directory)

    return made


@pytest.mark.parametrize("kind", EVERY)
@settings(
    max_examples=3,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    derandomize=True,
)
@given(data=st.data())
def test_a_cut_model_computes_what_the_dense_one_does_without_what_went(
    kind: str, dense, tmp_path: Path, data: st.DataObject
) -> None:
    content, ref, directory = dense(kind)
    reader = CheckpointReader(content, ref)
    config = full_config(reader.config)
    row = row_for(str(config["model_type"]))
    sizes = sizes_of(row, config)
    cut = data.draw(cuts(row.model_type, sizes, config))
    changes = {}
    if cut.vocabulary is not None:
        changes = {
            name: cut.vocabulary.index(config[name]) for name in SPECIALS if config.get(name) is not None
        }
    steps = list(slice_checkpoint(content, reader, cut, like=ref, changes=changes))
    smaller = steps[-1]
    assert isinstance(smaller, CheckpointRef)
    assert steps[:-1] == [i + 1 for i in range(len(cut.blocks))]

    model = loaded(export(content, smaller, tmp_path / "cut"))
    oracle = as_if_cut(loaded(directory), cut, sizes)
    with torch.no_grad():
        tokens = (
            TOKENS if cut.vocabulary is None else torch.tensor(cut.vocabulary)[TOKENS % len(cut.vocabulary)]
        )
        own = TOKENS if cut.vocabulary is None else TOKENS % len(cut.vocabulary)
        expected = oracle(input_ids=tokens, use_cache=False).logits
        found = model(input_ids=own, use_cache=False).logits
    if cut.vocabulary is not None:
        expected = expected[..., list(cut.vocabulary)]
    assert found.shape == expected.shape
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))

    new = sizes_after(cut, sizes)
    assert sizes_of(row, full_config(CheckpointReader(content, smaller).config)) == new
    stored = CheckpointReader(content, smaller).index.tensors.values()
    assert sum(math.prod(entry.shape) for entry in stored) == model.num_parameters()
    generated = model.generate(own[:1, :4], max_new_tokens=3, do_sample=False, pad_token_id=0)
    assert generated.shape[1] <= 7


def loaded(directory: Path) -> PreTrainedModel:
    """With stock transformers, which must use every tensor and miss none."""
    model, notes = AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, output_loading_info=True
    )
    assert not notes["unexpected_keys"], notes
    assert not notes["mismatched_keys"], notes
    assert not [key for key in notes["missing_keys"] if key != "lm_head.weight"], notes
    return model.eval()


@st.composite
def cuts(draw: st.DrawFn, model_type: str, sizes: Sizes, config: dict) -> Cut:
    """Valid cuts of any of the sizes at once."""
    row = row_for(model_type)

    def some(size: int, count: int) -> tuple[int, ...]:
        return tuple(sorted(draw(st.permutations(range(size)))[:count]))

    whole_groups = sizes.num_key_value_heads
    groups, wide = whole_groups, sizes.heads_per_group
    if draw(st.booleans()):
        if wide > 1:
            wide = draw(st.integers(1, wide))
        if has_groups(row, config) or sizes.heads_per_group == 1:
            groups = draw(st.integers(1, whole_groups))
    heads = groups * wide
    hidden = None
    if row.head_dim == "tied":
        hidden = heads * sizes.head_dim
    elif draw(st.booleans()):
        hidden = draw(st.integers(8, sizes.hidden_size))
        hidden -= hidden % (2 * heads if row.head_dim == "divides" else 4)
    elif row.head_dim == "divides" and sizes.hidden_size % heads:
        hidden = sizes.hidden_size // heads * heads
    ffn = None if sizes.intermediate_size is None else draw(st.integers(1, sizes.intermediate_size))
    if "intermediate_size" not in row.sizes and sizes.intermediate_size is not None:
        ffn = 4 * (hidden or sizes.hidden_size)
    experts = None if sizes.num_experts is None else draw(st.integers(1, sizes.num_experts))
    expert_ffn = (
        None
        if sizes.moe_intermediate_size is None
        else 4 * draw(st.integers(1, sizes.moe_intermediate_size // 4))
    )
    shared = sizes.shared_expert_intermediate_size
    shared = None if shared is None else draw(st.integers(1, shared))
    count = draw(st.integers(1, sizes.num_hidden_layers))
    blocks = []
    for block in some(sizes.num_hidden_layers, count):
        kept_groups = some(whole_groups, groups)
        kept_heads = sorted(
            group * sizes.heads_per_group + one
            for group in kept_groups
            for one in some(sizes.heads_per_group, wide)
        )
        mixture = experts is not None and (model_type == "mixtral" or has_experts(row, config, block))
        kept_experts: tuple[int, ...] = (
            some(sizes.num_experts, experts) if mixture and experts and sizes.num_experts else ()
        )
        blocks.append(
            BlockCut(
                block=block,
                heads=tuple(kept_heads),
                key_value_heads=kept_groups,
                ffn=some(sizes.intermediate_size, ffn) if ffn and sizes.intermediate_size else None,
                shared_ffn=some(sizes.shared_expert_intermediate_size or 0, shared) if shared else None,
                experts=kept_experts,
                expert_ffn={e: some(sizes.moe_intermediate_size or 0, expert_ffn) for e in kept_experts}
                if kept_experts and expert_ffn
                else {},
            )
        )
    if config.get("word_embed_proj_dim") == hidden and hidden != sizes.hidden_size:
        hypothesis.reject()  # OPT would then have no projections
    kept_hidden = None if hidden is None else some(sizes.hidden_size, hidden)
    vocabulary = None
    if draw(st.booleans()):
        specials = {int(config[name]) for name in SPECIALS if config.get(name) is not None}
        vocabulary = tuple(
            sorted({*specials, *some(sizes.vocab_size, draw(st.integers(8, sizes.vocab_size)))})
        )
    return Cut(blocks=tuple(blocks), hidden=kept_hidden, vocabulary=vocabulary)
