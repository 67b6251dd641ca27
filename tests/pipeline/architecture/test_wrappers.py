"""Multimodal types: their language model is worked on, and everything else is carried over to the bit."""

import json
from functools import cache
from pathlib import Path

import pytest
import torch
from pydantic import JsonValue
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from pipeline.allocations import Uniform
from pipeline.architecture.rows import ROWS
from pipeline.architecture.wrappers import WRAPPERS
from pipeline.artifacts.refs import CheckpointRef
from pipeline.checkpoint.keeps import keep_ref
from pipeline.checkpoint.language_model import (
    check_inside,
    language_names,
    with_language,
)
from pipeline.checkpoint.reader import CheckpointReader
from pipeline.checkpoint.scoring import StoredModel
from pipeline.checkpoint.slicing import full_config, slice_checkpoint
from pipeline.checkpoint.stream import BlockStream
from pipeline.errors import InvalidSpec, UnsupportedCheckpoint
from pipeline.masks.apply import apply_masks
from pipeline.masks.certify import certify
from pipeline.masks.file import put_masks
from pipeline.methods.wanda import Wanda
from pipeline.spec.structure import Structure
from pipeline.storage import ContentStore
from pipeline.structure.sizes import sizes_of
from pipeline.vocabulary.cutting import read_vocabulary
from tests.checkpoints import imported
from tests.exported import export, exported
from tests.model_configs import VOCABULARY
from tests.pruned_by_loops import HALF
from tests.stored import Stored
from tests.sweeping import prune_in_process
from tests.wrapper_checkpoints import (
    WRAPPED,
    changed_config,
    loaded_wrapper,
    renamed_checkpoint,
    wrapper_checkpoint,
)
from workers.harness.files import materialise_checkpoint

pytestmark = pytest.mark.usefixtures("one_thread", "no_gradients")

SAMPLES = tuple(torch.arange(first, first + 24) * 13 % (VOCABULARY - 8) for first in (2, 57))


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory):
    """Checkpoints by name, made once."""

    @cache
    def made(name: str) -> Stored:
        base = tmp_path_factory.mktemp(name)
        directory = wrapper_checkpoint(name, base / "model")
        return Stored(directory, *imported(directory, base / "store"))

    return made


def streamed(content: ContentStore, ref: CheckpointRef, tokens: torch.Tensor) -> torch.Tensor:
    """The logits of the language model, block by block."""
    reader = CheckpointReader(content, ref)
    stream = BlockStream(reader, dtype=torch.float32, device=torch.device("cpu"))
    (hidden,) = stream.embed([tokens])
    for block in range(stream.num_blocks):
        names = stream.block_tensors(block)
        stream.load(block, {inside: reader.tensor(disk) for inside, disk in names.items()})
        hidden = stream.run(block, hidden)
    stream.load_head()
    return stream.logits(tokens, hidden)


def tensors_of(directory: Path) -> dict[str, torch.Tensor]:
    """Every tensor that a directory stores, by name."""
    return {name: one for path in directory.glob("*.safetensors") for name, one in load_file(path).items()}


@pytest.mark.parametrize("name", WRAPPED)
def test_streaming_gives_the_bits_of_the_wrapper(name: str, stored) -> None:
    dense = stored(name)
    whole = loaded_wrapper(dense.directory)
    for tokens in SAMPLES:
        expected = whole(input_ids=tokens[None]).logits[0]
        assert torch.equal(streamed(dense.content, dense.ref, tokens), expected)


@pytest.mark.parametrize("name", WRAPPED)
def test_the_language_model_is_pruned_and_the_rest_keeps_its_bits(name: str, stored, tmp_path: Path) -> None:
    dense = stored(name)
    got = prune_in_process(
        dense.content, dense.ref, SAMPLES, method=Wanda(), allocation=Uniform(), pattern=HALF
    )
    ref = exported(dense.content, dense.ref, got.made, tmp_path / "pruned")
    linears = [linear for block in got.blocks for linear in block.linears]
    kept = keep_ref(dense.content, [block.keep for block in got.blocks], linears)
    assert certify(dense.content, ref, kept, at="published")[1].tensors == len(got.keep) > 0
    before, after = tensors_of(dense.directory), tensors_of(tmp_path / "pruned")
    assert before.keys() == after.keys()
    others = before.keys() - {*language_names(dense.reader.whole_config, before).values()}
    assert others
    for key, tensor in before.items():
        if key in got.keep:
            assert not after[key][~got.keep[key]].any(), key
            assert torch.equal(after[key][got.keep[key]], tensor[got.keep[key]]), key
        else:
            assert torch.equal(after[key], tensor), key
    for file in ("config.json", "preprocessor_config.json"):
        assert (tmp_path / "pruned" / file).read_bytes() == (dense.directory / file).read_bytes()
    whole = loaded_wrapper(tmp_path / "pruned")
    assert torch.equal(streamed(dense.content, ref, SAMPLES[0]), whole(input_ids=SAMPLES[0][None]).logits[0])


@pytest.mark.parametrize("name", WRAPPED)
def test_a_cut_language_model_opens_in_its_wrapper(name: str, stored, tmp_path: Path) -> None:
    dense = stored(name)
    fixed = WRAPPERS[str(dense.reader.whole_config["model_type"])].fixed
    stays = {size for one in fixed for size in one.sizes}
    asked: dict[str, JsonValue] = {"intermediate_size": 56}
    if "num_attention_heads" not in stays:
        asked |= {"num_attention_heads": 2, "num_key_value_heads": 1}
    if "num_hidden_layers" not in stays:
        asked["drop_blocks"] = {"kind": "explicit", "blocks": [0]}
    structure = Structure.model_validate({**asked, "criterion": {"kind": "magnitude"}})
    model = StoredModel(dense.content, dense.reader)
    cut = structure.cut(model.row, full_config(dense.reader.config), model)
    *_, ref = slice_checkpoint(dense.content, dense.reader, cut, like=dense.ref)
    export(dense.content, ref, tmp_path / "cut")
    before, after = (
        json.loads((directory / "config.json").read_text())
        for directory in (dense.directory, tmp_path / "cut")
    )
    assert after["text_config"]["model_type"] == before["text_config"]["model_type"]
    assert after["vision_config"] == before["vision_config"]
    whole = loaded_wrapper(tmp_path / "cut")
    text = whole.config.get_text_config()
    assert text.intermediate_size == 56
    assert text.num_attention_heads == asked.get("num_attention_heads", 4)
    assert text.num_hidden_layers == (1 if "drop_blocks" in asked else 2)
    assert torch.equal(streamed(dense.content, ref, SAMPLES[0]), whole(input_ids=SAMPLES[0][None]).logits[0])


@pytest.mark.parametrize("name", ["gemma3", "llava", "qwen2_5_vl"])
def test_both_layouts_of_names_are_read(name: str, stored, tmp_path: Path) -> None:
    """transformers saves one of them and renames the other while it loads."""
    ours = stored(name)
    directory = wrapper_checkpoint(name, tmp_path / "other")
    saved = tensors_of(directory)
    new_names = any(key.startswith("model.language_model.") for key in saved)
    if name == "qwen2_5_vl":
        moves = (("model.language_model.", "model."), ("model.visual.", "visual."))
    else:
        moves = (
            ("model.language_model.", "language_model.model."),
            ("lm_head.", "language_model.lm_head."),
            ("model.vision_tower.", "vision_tower."),
            ("model.multi_modal_projector.", "multi_modal_projector."),
        )
    if not new_names:
        moves = tuple((after, before) for before, after in reversed(moves))

    def other(key: str) -> str:
        return next((f"{b}{key.removeprefix(a)}" for a, b in moves if key.startswith(a)), key)

    assert {other(key) for key in saved} != {*saved}
    renamed_checkpoint(directory, other)
    content, ref = imported(directory, tmp_path / "store")
    whole = loaded_wrapper(directory)
    expected = whole(input_ids=SAMPLES[0][None]).logits[0]
    assert torch.equal(streamed(content, ref, SAMPLES[0]), expected)
    assert torch.equal(streamed(ours.content, ours.ref, SAMPLES[0]), expected)


def test_a_flat_config_is_read_and_written_as_it_is(stored, tmp_path: Path) -> None:
    """Qwen2.5-VL's are so on hubs, without text_config."""
    directory = wrapper_checkpoint("qwen2_5_vl", tmp_path / "model")

    def flat(config: dict) -> dict:
        text = config.pop("text_config")
        text |= {"rope_theta": 1e4, "rope_scaling": {"type": "mrope", "mrope_section": [4, 2, 2]}}
        for name in ("model_type", "rope_parameters", "layer_types"):
            text.pop(name, None)
        return {**text, **config}

    changed_config(directory, flat)
    content, ref = imported(directory, tmp_path / "store")
    reader = CheckpointReader(content, ref)
    assert reader.config["model_type"] == "qwen2"
    expected = loaded_wrapper(directory)(input_ids=SAMPLES[0][None]).logits[0]
    assert torch.equal(streamed(content, ref, SAMPLES[0]), expected)
    changed = with_language(reader.whole_config, reader.config, {**reader.config, "intermediate_size": 56})
    assert changed == {**reader.whole_config, "intermediate_size": 56}


def test_masks_are_applied_under_the_names_of_the_wrapper(stored, tmp_path: Path) -> None:
    dense = stored("mistral3")
    got = prune_in_process(
        dense.content, dense.ref, SAMPLES, method=Wanda(), allocation=Uniform(), pattern=HALF
    )
    ref = exported(dense.content, dense.ref, got.made, tmp_path / "pruned")
    linears = [linear for block in got.blocks for linear in block.linears]
    kept = keep_ref(dense.content, [block.keep for block in got.blocks], linears)
    masks = put_masks(dense.content, ref, kept, patterns=(HALF, HALF), dense=dense.ref)
    (tmp_path / "masks.safetensors").write_bytes(dense.content.get_bytes(masks.blob))
    *_, applied = apply_masks(dense.directory, tmp_path / "masks.safetensors", tmp_path / "applied")
    assert not isinstance(applied, int)
    assert applied.held > 0
    expected = tensors_of(tmp_path / "pruned")
    for name, tensor in tensors_of(tmp_path / "applied").items():
        assert torch.equal(tensor, expected[name]), name


def test_evaluation_gets_the_language_model_alone(stored, tmp_path: Path) -> None:
    dense = stored("qwen3_vl")
    materialise_checkpoint(dense.ref, dense.content, tmp_path)
    model, notes = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(notes[kind] for kind in ("unexpected_keys", "mismatched_keys", "missing_keys"))
    assert type(model).__name__ == "Qwen3ForCausalLM"
    expected = streamed(dense.content, dense.ref, SAMPLES[0])
    assert torch.equal(model.eval()(input_ids=SAMPLES[0][None]).logits[0], expected)


@pytest.mark.parametrize(
    ("size", "value", "why"),
    [
        ("hidden_size", 32, "projected to this width"),
        ("vocab_size", 300, "tokens for images"),
        ("num_hidden_layers", 1, "added again after its first blocks"),
    ],
)
def test_what_the_other_parts_depend_on_stays(size: str, value: int, why: str, stored) -> None:
    reader = stored("qwen3_vl").reader
    old = sizes_of(ROWS["qwen3"], reader.config)
    with pytest.raises(InvalidSpec, match=why):
        check_inside(reader.whole_config, old, old.model_copy(update={size: value}))
    check_inside(reader.config, old, old.model_copy(update={size: value}))


def test_the_command_refuses_to_cut_the_vocabulary(stored) -> None:
    files = {"config.json": (stored("llava").directory / "config.json").read_bytes()}
    with pytest.raises(UnsupportedCheckpoint, match="a llava, which is multimodal, cannot be cut"):
        read_vocabulary(files)


def test_other_parts_that_are_not_those_of_the_config_are_named(tmp_path: Path) -> None:
    directory = wrapper_checkpoint("llava", tmp_path / "model")
    tensors = load_file(directory / "model.safetensors")
    first = next(key for key in tensors if "projector" in key)
    renamed_checkpoint(directory, lambda key: "model.extra.weight" if key == first else key)
    with pytest.raises(
        UnsupportedCheckpoint, match=r"not the same llava: 1 tensors are missing .*1 are stored"
    ):
        imported(directory, tmp_path / "store")


def test_logits_that_the_wrapper_would_leave_as_they_are(tmp_path: Path) -> None:
    directory = wrapper_checkpoint("llava", tmp_path / "model")
    scaled = {"model_type": "granite", "logits_scaling": 8.0}
    changed_config(directory, lambda config: {**config, "text_config": {**config["text_config"], **scaled}})
    with pytest.raises(UnsupportedCheckpoint, match=r"a granite changes its logits by logits_scaling=8.0"):
        imported(directory, tmp_path / "store")


def test_a_head_that_is_stored_beside_its_embedding_is_its_own(tmp_path: Path) -> None:
    """config.json says that they are tied, the bytes say that they are not, and so does the result."""
    directory = wrapper_checkpoint("ministral3", tmp_path / "model")
    changed_config(directory, lambda config: {**config, "tie_word_embeddings": True})
    content, ref = imported(directory, tmp_path / "store")
    reader = CheckpointReader(content, ref)
    assert reader.config["tie_word_embeddings"] is False
    assert reader.whole_config["tie_word_embeddings"] is False
