"""What is not the model of its config.json goes in at no door. What goes in is what transformers loads."""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save
from transformers import AutoModelForCausalLM

from pipeline.artifacts.remarks import ImportRemarks
from pipeline.checkpoint.export import export_checkpoint
from pipeline.checkpoint.header import read_headers
from pipeline.checkpoint.importing import Remark, import_checkpoint
from pipeline.checkpoint.inspection import inspect
from pipeline.checkpoint.megatron.convert import convert
from pipeline.checkpoint.reader import CheckpointReader
from pipeline.checkpoint.scan import TensorScan
from pipeline.checkpoint.stream import BlockStream
from pipeline.errors import InvalidSpec, SecateurError, SourceChanged, UnsupportedCheckpoint
from pipeline.request.prune_spec import PruneSpec
from pipeline.resolve.model import model_pin
from pipeline.resolve.resolve import Inspector, resolve
from pipeline.sources import SourceAccess, open_source
from pipeline.storage import ContentStore, LocalStore
from tests import bad_checkpoints
from tests.checkpoints import imported
from tests.models import KINDS, tiny_checkpoint

EVERYWHERE = SourceAccess(allowed_roots=(Path("/"),))
WITHOUT_TORCH = {
    bad_checkpoints.more_rows: ["392", "384", "resize_token_embeddings"],
    bad_checkpoints.int8: [
        "model.layers.0.mlp.down_proj.weight in model.safetensors, I8",
        "weight_scale",
        "dequantize",
    ],
    bad_checkpoints.unmerged: ["peft", "merge_and_unload"],
    bad_checkpoints.emptied: ["39 of 39 tensors are empty", "zero_to_fp32.py"],
}
WITH_TORCH = {
    **WITHOUT_TORCH,
    bad_checkpoints.stray_biases: ["28 are stored", "mlp.down_proj.bias", "attention_bias to true"],
}
Maker = Callable[[Path], Path]


def refused(act: Callable[[], object], words: list[str]) -> None:
    with pytest.raises(UnsupportedCheckpoint) as caught:
        act()
    assert caught.value.param in (None, "spec.model.source")
    for word in words:
        assert word in caught.value.message


def submitted(directory: Path, *, inspect: Inspector | None = None, **parts: object) -> None:
    spec = {
        "model": {"source": f"file:{directory}"},
        "prune": {"method": {"kind": "magnitude"}, "pattern": {"kind": "unstructured", "sparsity": 0.5}},
        **parts,
    }
    resolve(PruneSpec.model_validate(spec), EVERYWHERE, inspect=inspect)


@pytest.mark.parametrize("make", WITHOUT_TORCH)
def test_submission_refuses_without_torch(make: Maker, tmp_path: Path) -> None:
    directory = make(tmp_path / "model")
    refused(lambda: submitted(directory), WITHOUT_TORCH[make])


@pytest.mark.parametrize("make", WITH_TORCH)
def test_submission_with_an_inspector_and_the_import_refuse(make: Maker, tmp_path: Path) -> None:
    directory = make(tmp_path / "model")
    refused(lambda: submitted(directory, inspect=inspect), WITH_TORCH[make])
    refused(lambda: imported(directory, tmp_path / "store"), WITH_TORCH[make])
    assert not list((tmp_path / "store").rglob("*")), "refused before a byte was copied"
    refused(lambda: convert(directory, tmp_path / "out", to="torch_dist"), WITH_TORCH[make])


def test_marks_of_quantizers_beside_the_weights(tmp_path: Path) -> None:
    directory = tiny_checkpoint("llama", tmp_path / "model")
    for name in ("hf_quant_config.json", "quantize_config.json", "quant_config.json"):
        (directory / name).write_text("{}")
        refused(lambda: submitted(directory), [name, "quantized"])
        (directory / name).unlink()
    bad_checkpoints.edit_config(directory, compression_config={"quant_method": "sparseml"})
    refused(lambda: submitted(directory), ["compression_config", "sparseml", "dequantize"])


@pytest.mark.parametrize("kind", KINDS)
def test_stock_models_go_in(kind: str, tmp_path: Path) -> None:
    whole = tiny_checkpoint(kind, tmp_path / "model")
    submitted(whole, inspect=inspect)
    in_shards = tiny_checkpoint(kind, tmp_path / "shards", max_shard_size="100KB", dtype="bfloat16")
    submitted(in_shards, inspect=inspect)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_nan_and_infinity_are_named_with_their_tensor(dtype: torch.dtype, tmp_path: Path) -> None:
    directory = bad_checkpoints.not_finite(tmp_path / "model")
    bad_checkpoints.edit_weights(directory, lambda t: {name: one.to(dtype) for name, one in t.items()})
    words = ["model.layers.1.mlp.up_proj.weight", "2 NaN and 1 infinite values of 8192", "earlier checkpoint"]
    refused(lambda: imported(directory, tmp_path / "store"), words)


def test_a_buffer_that_nobody_reads_may_be_infinite(tmp_path: Path) -> None:
    directory = tiny_checkpoint("gpt_neox", tmp_path / "model")
    masked = {"gpt_neox.layers.0.attention.masked_bias": torch.tensor(float("-inf"))}
    bad_checkpoints.edit_weights(directory, lambda t: t | masked)
    source = open_source(f"file:{directory}", EVERYWHERE)
    steps = list(import_checkpoint(model_pin(source), source, ContentStore(LocalStore(tmp_path / "s"))))
    said = [step.text for step in steps if isinstance(step, Remark)]
    assert len(said) == 1
    assert "attention.masked_bias" in said[0]


@given(
    values=st.lists(st.floats(width=32), min_size=1, max_size=40),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]),
    size=st.integers(1, 60),
)
@settings(max_examples=150, derandomize=True, deadline=None)
def test_the_counts_are_those_of_torch_wherever_chunks_end(
    values: list[float], dtype: torch.dtype, size: int
) -> None:
    tensor = torch.tensor(values).to(dtype)
    data = save({"t": tensor})
    nan, infinite = int(tensor.isnan().sum()), int(tensor.isinf().sum())
    scan = TensorScan("x.safetensors")
    chunks = (data[i : i + size] for i in range(0, len(data), size))
    if not nan + infinite:
        assert b"".join(scan.through(chunks)) == data
        return
    with pytest.raises(UnsupportedCheckpoint, match=f"has {nan} NaN and {infinite} infinite values"):
        list(scan.through(chunks))


def test_a_head_that_is_not_the_embedding_is_the_model_s_own(tmp_path: Path) -> None:
    """transformers loads both although the config says that they are tied; so does everything here."""
    directory = bad_checkpoints.two_heads(tmp_path / "model")
    content, ref = imported(directory, tmp_path / "store")
    reader = CheckpointReader(content, ref)
    assert reader.config["tie_word_embeddings"] is False
    remarks = ref.load(content, ImportRemarks).sentences
    assert "lm_head.weight is not model.embed_tokens.weight" in remarks[0]
    written = tmp_path / "exported"
    written.mkdir()
    export_checkpoint(content, ref, written)
    assert not (written / "remarks.json").exists()
    theirs = AutoModelForCausalLM.from_pretrained(directory)
    ours = AutoModelForCausalLM.from_pretrained(written)
    tokens = torch.arange(2, 20)
    assert theirs.lm_head.weight is not theirs.model.embed_tokens.weight
    with torch.no_grad():
        expected = theirs(input_ids=tokens[None]).logits
        assert torch.equal(ours(input_ids=tokens[None]).logits, expected)
    stream = BlockStream(reader, dtype=torch.float32, device=torch.device("cpu"))
    assert {"lm_head.weight", "model.embed_tokens.weight"} <= set(stream.outer_tensors())


def test_a_stored_copy_of_a_tied_head_leaves_the_index(tmp_path: Path) -> None:
    content, ref = imported(bad_checkpoints.two_heads(tmp_path / "model", same=True), tmp_path / "store")
    reader = CheckpointReader(content, ref)
    assert reader.config["tie_word_embeddings"] is True
    assert "lm_head.weight" not in reader.index.tensors
    assert ref.find(content, ImportRemarks) is None
    stream = BlockStream(reader, dtype=torch.float32, device=torch.device("cpu"))
    stream.load_head()  # from the embedding


def test_a_copy_in_another_type_is_a_copy(tmp_path: Path) -> None:
    directory = bad_checkpoints.two_heads(tmp_path / "model", same=True)
    bad_checkpoints.edit_weights(
        directory,
        lambda t: {name: one if name.startswith("lm_head") else one.bfloat16() for name, one in t.items()},
    )
    content, ref = imported(directory, tmp_path / "store")
    reader = CheckpointReader(content, ref)
    assert reader.config["tie_word_embeddings"] is True
    assert "lm_head.weight" not in reader.index.tensors
    loaded = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.bfloat16)
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight


@pytest.mark.parametrize("same", [False, True])
def test_convert_writes_the_head_that_transformers_loads(same: bool, tmp_path: Path) -> None:
    directory = bad_checkpoints.two_heads(tmp_path / "model", same=same)
    said: list[str] = []
    convert(directory, tmp_path / "megatron", to="torch_dist", say=said.append)
    convert(tmp_path / "megatron", tmp_path / "back", to="hf")
    assert len(said) == (0 if same else 1)
    tensors = {}
    for shard in (tmp_path / "back").glob("*.safetensors"):
        tensors |= load_file(shard)
    stored = load_file(directory / "model.safetensors")
    assert ("lm_head.weight" in tensors) == (not same)
    for name, tensor in tensors.items():
        assert torch.equal(tensor, stored[name]), name


def test_headers_are_read_without_the_rest(tmp_path: Path) -> None:
    """A file whose weights are a hole of a terabyte, which nobody could read."""
    directory = tiny_checkpoint("llama", tmp_path / "model")
    header = {"t": {"dtype": "F32", "shape": [2**38], "data_offsets": [0, 2**40]}}
    text = json.dumps(header).encode()
    with (directory / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + 2**40)
    source = open_source(f"file:{directory}", EVERYWHERE)
    pin = model_pin(source)
    assert read_headers(pin, source)["t"].shape == (2**38,)
    with (directory / "model.safetensors").open("ab") as file:
        file.write(b"x")
    with pytest.raises(SourceChanged):
        read_headers(pin, source)


@given(data=st.binary(max_size=60), length=st.integers(0, 2**64 - 1))
@settings(max_examples=80, derandomize=True, deadline=None)
def test_no_header_is_a_traceback(data: bytes, length: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    directory = tmp_path_factory.mktemp("header")
    (directory / "config.json").write_text('{"model_type": "llama", "num_hidden_layers": 1}')
    for begin in (struct.pack("<Q", length), struct.pack("<Q", len(data))):
        (directory / "model.safetensors").write_bytes(begin + data)
        source = open_source(f"file:{directory}", EVERYWHERE)
        with pytest.raises(SecateurError):
            read_headers(model_pin(source), source)
    shutil.rmtree(directory)


def test_a_cut_of_which_transformers_makes_no_model_is_refused_at_submission(tmp_path: Path) -> None:
    """Phi-3's long rope has as many factors as half a head has channels."""
    directory = tiny_checkpoint("phi3", tmp_path / "model")
    factors = {"type": "longrope", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8}
    bad_checkpoints.edit_config(directory, rope_scaling=factors, rope_parameters=...)
    fewer = {"hidden_size": 48, "criterion": {"kind": "magnitude"}}
    submitted(directory, inspect=inspect)
    with pytest.raises(InvalidSpec, match="factor") as caught:
        submitted(directory, inspect=inspect, structure=fewer)
    assert caught.value.param == "spec.structure.hidden_size"
