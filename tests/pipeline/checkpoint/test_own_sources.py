"""Checkpoints as the types with something of their own are published: quantized, with blocks that predict
further ahead, and with all experts of a block in one tensor."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from pipeline.allocations import Uniform
from pipeline.architecture.rows import row_for
from pipeline.artifacts.refs import CheckpointRef
from pipeline.artifacts.remarks import ImportRemarks
from pipeline.checkpoint.keeps import keep_ref
from pipeline.checkpoint.reader import CheckpointReader
from pipeline.checkpoint.scoring import StoredModel
from pipeline.checkpoint.slicing import full_config, slice_checkpoint
from pipeline.errors import UnsupportedCheckpoint
from pipeline.masks.apply import Applied, apply_masks
from pipeline.masks.file import put_masks
from pipeline.methods.magnitude import Magnitude
from pipeline.methods.wanda import Wanda
from pipeline.resolve.model import resolve_model
from pipeline.sources import SourceAccess, open_source
from pipeline.spec.structure import Structure
from pipeline.storage import ContentStore
from tests.checkpoints import imported
from tests.exported import export, exported
from tests.own_checkpoints import own_checkpoint
from tests.pruned_by_loops import HALF
from tests.sweeping import prune_in_process

pytestmark = pytest.mark.usefixtures("one_thread", "no_gradients")

FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}


def changed(directory: Path, change: Callable[[dict[str, Tensor]], None], **config: object) -> Path:
    """Changes the tensors of a checkpoint in place, and fields of its config.json."""
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    described = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**described, **config}))
    return directory


def read_back(content: ContentStore, ref: CheckpointRef, directory: Path) -> dict[str, Tensor]:
    """The state dict that stock transformers loads of a stored checkpoint."""
    model, notes = AutoModelForCausalLM.from_pretrained(
        export(content, ref, directory), dtype="auto", output_loading_info=True
    )
    assert not any(notes[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), notes
    state: dict[str, Tensor] = model.state_dict()
    return state


def in_mxfp4(directory: Path, expected: dict[str, Tensor]) -> Path:
    """Puts random codes in the place of experts; `expected` gets the weights that transformers reads."""
    generator = torch.Generator().manual_seed(3)

    def change(tensors: dict[str, Tensor]) -> None:
        for name in [
            name for name in tensors if name.endswith(("experts.gate_up_proj", "experts.down_proj"))
        ]:
            experts, inputs, outputs = tensors.pop(name).shape
            shape = (experts, outputs, inputs // 32)
            codes = torch.randint(0, 256, (*shape, 16), generator=generator, dtype=torch.uint8)
            scales = torch.randint(120, 126, shape, generator=generator, dtype=torch.uint8)
            tensors[f"{name}_blocks"], tensors[f"{name}_scales"] = codes, scales
            expected[name] = convert_moe_packed_tensors(codes, scales)
        expected.update({name: one.bfloat16() for name, one in tensors.items() if one.dtype != torch.uint8})
        tensors.update({name: expected[name] for name in tensors if name in expected})

    return changed(directory, change, quantization_config={"quant_method": "mxfp4"}, dtype="bfloat16")


def in_fp8(directory: Path, expected: dict[str, Tensor]) -> Path:
    """Puts every linear of a block into FP8; `expected` gets the weights that the codes stand for."""

    def change(tensors: dict[str, Tensor]) -> None:
        for name in [name for name in tensors if name.endswith("_proj.weight") or "_proj_" in name]:
            blocks = tensors[name].split(128)  # no matrix here has more than 128 columns
            scales = [block.abs().max() / 448 for block in blocks]
            pairs = [*zip(blocks, scales, strict=True)]
            codes = [(block / scale).to(torch.float8_e4m3fn) for block, scale in pairs]
            tensors[name] = torch.cat([one.view(torch.uint8) for one in codes]).view(torch.float8_e4m3fn)
            tensors[f"{name}_scale_inv"] = torch.stack(scales)[:, None]
            whole = [one.float() * scale for one, scale in zip(codes, scales, strict=True)]
            expected[name] = torch.cat(whole).bfloat16()
        expected.update({name: one for name, one in tensors.items() if one.dtype == torch.float32})

    return changed(directory, change, quantization_config=FP8)


@pytest.mark.parametrize(("name", "make"), [("gpt_oss", in_mxfp4), ("deepseek_v3", in_fp8)])
def test_quantized_weights_are_read_dequantized_and_it_is_said(
    name: str, make: Callable[[Path, dict[str, Tensor]], Path], tmp_path: Path
) -> None:
    expected: dict[str, Tensor] = {}
    directory = make(own_checkpoint(name, tmp_path / "model"), expected)
    source = open_source(f"file:{directory}", SourceAccess(allowed_roots=(tmp_path,)))
    _, facts = resolve_model(source, needs_tokenizer=True)
    assert any("read dequantized, as bfloat16" in note for note in facts.notes)
    assert "quantization_config" not in facts.config

    content, ref = imported(directory, tmp_path / "store")
    reader = CheckpointReader(content, ref)
    assert "quantization_config" not in reader.config
    assert reader.config["dtype"] == "bfloat16"
    assert {entry.dtype for entry in reader.index.tensors.values()} <= {"BF16", "F32"}
    found = load_file_of(content, ref, tmp_path / "plain")
    kept = {key: one for key, one in expected.items() if not key.endswith("_scale_inv")}
    assert found.keys() == kept.keys()
    for key, tensor in kept.items():
        assert torch.equal(found[key], tensor), key
    state = read_back(content, ref, tmp_path / "again")
    assert not any(tensor.dtype == torch.uint8 for tensor in state.values())


def load_file_of(content: ContentStore, ref: CheckpointRef, directory: Path) -> dict[str, Tensor]:
    """All tensors of a stored checkpoint's files."""
    return {
        name: tensor
        for path in sorted(export(content, ref, directory).glob("*.safetensors"))
        for name, tensor in load_file(path).items()
    }


@pytest.mark.parametrize(
    ("quantization", "why"),
    [
        ({**FP8, "weight_block_size": [64, 64]}, r"is quantized \(fp8\)"),
        ({"quant_method": "mxfp4"}, r"is quantized \(mxfp4\)"),
    ],
)
def test_other_formats_of_the_same_type_are_refused(
    quantization: dict[str, object], why: str, tmp_path: Path
) -> None:
    directory = own_checkpoint("deepseek_v3", tmp_path / "model")
    changed(directory, lambda tensors: None, quantization_config=quantization)
    with pytest.raises(UnsupportedCheckpoint, match=why):
        imported(directory, tmp_path / "store")


def test_codes_and_scales_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    directory = in_fp8(own_checkpoint("deepseek_v3", tmp_path / "model"), {})
    name = "model.layers.0.mlp.up_proj.weight_scale_inv"

    def wrong(tensors: dict[str, Tensor]) -> None:
        tensors[name] = torch.ones(2, 1)

    changed(directory, wrong)
    with pytest.raises(UnsupportedCheckpoint, match=rf"{name} is F32 \[2, 1\], which are not the codes"):
        imported(directory, tmp_path / "store")


def test_codes_of_no_number_are_refused(tmp_path: Path) -> None:
    directory = in_mxfp4(own_checkpoint("gpt_oss", tmp_path / "model"), {})
    name = "model.layers.1.mlp.experts.down_proj_scales"

    def broken(tensors: dict[str, Tensor]) -> None:
        tensors[name][2, 0, 0] = 255

    changed(directory, broken)
    with pytest.raises(UnsupportedCheckpoint, match=r"down_proj_blocks\[2\] and .* are NaN or infinite"):
        imported(directory, tmp_path / "store")


@pytest.mark.parametrize(
    ("name", "further", "field"),
    [
        ("glm4_moe", "model.layers.3.eh_proj.weight", "num_nextn_predict_layers"),
        ("qwen3_5_text", "mtp.fc.weight", "mtp_num_hidden_layers"),
    ],
)
def test_blocks_that_predict_further_ahead_are_left_out_and_it_is_said(
    name: str, further: str, field: str, tmp_path: Path
) -> None:
    directory = own_checkpoint(name, tmp_path / "model")

    def more(tensors: dict[str, Tensor]) -> None:
        tensors[further] = torch.ones(64, 128)
        tensors[further.replace("weight", "extra")] = torch.ones(3)

    changed(directory, more, **{field: 1})
    content, ref = imported(directory, tmp_path / "store")
    reader = CheckpointReader(content, ref)
    assert not any(one.startswith(further[:4]) and one in (further,) for one in reader.index.tensors)
    assert reader.config[field] == 0
    (sentence,) = ref.load(content, ImportRemarks).sentences
    assert "2 stored tensors predict tokens further ahead" in sentence
    assert f"config.json says {field} 0 from now on" in sentence

    tokens = [torch.arange(24), torch.arange(30, 54)]
    got = prune_in_process(content, ref, tokens, method=Magnitude(), allocation=Uniform(), pattern=HALF)
    pruned = exported(content, ref, got.made, tmp_path / "pruned")
    state = read_back(content, pruned, tmp_path / "again")
    assert all(not state[key][~keep].any() for key, keep in got.keep.items() if key in state)


def test_blocks_that_config_does_not_count_are_no_further_ones(tmp_path: Path) -> None:
    directory = own_checkpoint("deepseek_v3", tmp_path / "model")

    def more(tensors: dict[str, Tensor]) -> None:
        tensors["model.layers.3.input_layernorm.weight"] = torch.ones(64)

    changed(directory, more, num_nextn_predict_layers=0)
    with pytest.raises(
        UnsupportedCheckpoint, match=r"holds 4 blocks, and config\.json says num_hidden_layers 3"
    ):
        imported(directory, tmp_path / "store")


@pytest.mark.parametrize("name", ["qwen3_5_moe_text", "minimax_m2"])
def test_experts_that_are_stored_in_one_tensor_are_pruned_one_by_one(name: str, tmp_path: Path) -> None:
    """As the large Qwen3.5 are published; the result has the tensors of the source."""
    states, keys, files = [], [], []
    for kind in ("apart", "together"):
        directory = own_checkpoint(name, tmp_path / kind)
        if kind == "together":
            state = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).state_dict()
            save_file({key: one.contiguous() for key, one in state.items()}, directory / "model.safetensors")
        content, ref = imported(directory, tmp_path / f"{kind}-store")
        tokens = [torch.arange(24), torch.arange(30, 54)]
        got = prune_in_process(content, ref, tokens, method=Wanda(), allocation=Uniform(), pattern=HALF)
        pruned = exported(content, ref, got.made, tmp_path / "pruned")
        states.append(read_back(content, pruned, tmp_path / "again"))
        keys.append(len(got.keep))
        files.append({*load_file_of(content, pruned, tmp_path / "files")})
    assert files[1] == {*load_file(tmp_path / "together" / "model.safetensors")}
    assert files[0] != files[1]
    assert keys[0] == keys[1]
    assert states[0].keys() == states[1].keys()
    for key, tensor in states[0].items():
        assert torch.equal(states[1][key], tensor), key


def test_experts_in_one_tensor_can_be_cut(tmp_path: Path) -> None:
    directory = own_checkpoint("qwen3_5_moe_text", tmp_path / "model")
    state = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).state_dict()
    apart = imported(directory, tmp_path / "store")
    save_file({key: one.contiguous() for key, one in state.items()}, directory / "model.safetensors")
    together = imported(directory, tmp_path / "other")
    cut = Structure.model_validate(
        {"num_experts": 2, "moe_intermediate_size": 16, "criterion": {"kind": "magnitude"}}
    )
    states = []
    for content, ref in (apart, together):
        reader = CheckpointReader(content, ref)
        row, config = row_for("qwen3_5_moe_text"), full_config(reader.config)
        *_, smaller = slice_checkpoint(
            content, reader, cut.cut(row, config, StoredModel(content, reader)), like=ref
        )
        assert isinstance(smaller, CheckpointRef)
        states.append(read_back(content, smaller, tmp_path / "again"))
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[1][key], tensor) for key, tensor in states[0].items())


def test_masks_of_experts_in_one_tensor_are_applied_to_the_dense_files(tmp_path: Path) -> None:
    directory = own_checkpoint("gpt_oss", tmp_path / "model")
    content, ref = imported(directory, tmp_path / "store")
    tokens = [torch.arange(24), torch.arange(30, 54)]
    got = prune_in_process(content, ref, tokens, method=Magnitude(), allocation=Uniform(), pattern=HALF)
    pruned = exported(content, ref, got.made, tmp_path / "pruned")
    kept = keep_ref(
        content,
        [block.keep for block in got.blocks],
        [linear for block in got.blocks for linear in block.linears],
    )
    masks = put_masks(content, pruned, kept, dense=ref)
    (tmp_path / "masks.safetensors").write_bytes(content.get_bytes(masks.blob))
    *_, applied = apply_masks(directory, tmp_path / "masks.safetensors", tmp_path / "applied")
    assert isinstance(applied, Applied)
    assert applied.others == ()
    expected = load_file_of(content, pruned, tmp_path / "again")
    found = load_file(tmp_path / "applied" / "model.safetensors")
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name
