"""`secateur.prune` of checkpoints as people have them: other spellings in config.json, files beside the
weights, names that are not ASCII."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BloomForCausalLM

import secateur
from pipeline.errors import InvalidSpec, UnsupportedCheckpoint
from pipeline.report.data import ReportDocument
from pipeline.storage import LocalStore
from tests.models import tiny_checkpoint, tiny_config, tiny_text, tiny_tokenizer

pytestmark = pytest.mark.usefixtures("opened_here")

HALF = {"prune": {"method": {"kind": "magnitude"}, "pattern": {"kind": "unstructured", "sparsity": 0.5}}}
TEMPLATE = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"


def edited(directory: Path, *, without: tuple[str, ...] = (), **fields: object) -> Path:
    """A checkpoint's directory, with other fields in its config.json."""
    path = directory / "config.json"
    config = {name: value for name, value in json.loads(path.read_text()).items() if name not in without}
    path.write_text(json.dumps({**config, **fields}))
    return directory


def notes(pruned: secateur.Pruned) -> str:
    assert isinstance(pruned.report, ReportDocument)
    return "\n".join(pruned.report.summary.notes)


def bloom(directory: Path) -> Path:
    """BLOOM as its repositories have it: n_embed, num_attention_heads, and the base model's names."""
    BloomForCausalLM(tiny_config("bloom")).transformer.save_pretrained(directory)
    tiny_tokenizer("bloom").save_pretrained(directory)
    return edited(
        directory, without=("hidden_size", "n_head", "dtype"), n_embed=64, num_attention_heads=4, n_inner=None
    )


@pytest.mark.parametrize(
    ("structure", "sizes"),
    [
        ({"num_attention_heads": 2}, (32, 2, 2)),
        ({"drop_blocks": {"kind": "explicit", "blocks": [1]}}, (64, 4, 1)),
    ],
)
def test_a_size_goes_by_the_name_that_the_class_reads(
    tmp_path: Path, structure: dict[str, object], sizes: tuple[int, int, int]
) -> None:
    spec = {"structure": {"criterion": {"kind": "magnitude"}, **structure}}
    pruned = secateur.prune(bloom(tmp_path / "model"), spec, tmp_path / "out", threads=1)
    config = json.loads((pruned.directory / "config.json").read_text())
    assert (config["n_embed"], config["num_attention_heads"], config["n_layer"]) == sizes
    assert "hidden_size" not in config
    model, report = AutoModelForCausalLM.from_pretrained(pruned.directory, output_loading_info=True)
    assert not any(report.values())
    assert (model.config.hidden_size, model.config.n_head, model.config.n_layer) == sizes


def test_the_vocabulary_of_such_a_model_is_cut(tmp_path: Path) -> None:
    text = f"file:{tiny_text(tmp_path)}"
    spec = {"structure": {"vocabulary": {"size": 330, "texts": [{"source": text}]}}}
    pruned = secateur.prune(bloom(tmp_path / "model"), spec, tmp_path / "out", threads=1)
    assert (
        AutoModelForCausalLM.from_pretrained(pruned.directory).get_input_embeddings().weight.shape[0] == 330
    )


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"auto_map": {"AutoConfig": "configuration_x.X", "AutoModelForCausalLM": "m.M"}}, "auto_map"),
        ({"torch_dtype": "torch.bfloat16"}, ""),
        ({"torch_dtype": "auto"}, "torch_dtype='auto', which is no type of torch"),
        ({"rope_theta": 1e6, "a_limit": float("inf")}, ""),
    ],
)
def test_a_config_that_transformers_would_not_load_is_written_as_it_loads(
    tmp_path: Path, fields: dict[str, object], told: str
) -> None:
    model = edited(tiny_checkpoint("llama", tmp_path / "model"), without=("dtype",), **fields)
    pruned = secateur.prune(model, HALF, tmp_path / "out", threads=1)
    assert told in notes(pruned)
    assert "auto_map" not in json.loads((pruned.directory / "config.json").read_text())
    loaded = AutoModelForCausalLM.from_pretrained(pruned.directory, dtype=torch.float32)
    assert loaded.config.dtype == torch.float32
    if "a_limit" in fields:
        smaller = {"structure": {"criterion": {"kind": "magnitude"}, "intermediate_size": 64}}
        cut = secateur.prune(model, smaller, tmp_path / "cut", threads=1)
        assert AutoModelForCausalLM.from_pretrained(cut.directory).config.a_limit == float("inf")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_configs_in_other_encodings_are_written_as_transformers_reads_them(
    tmp_path: Path, encoding: str
) -> None:
    model = tiny_checkpoint("llama", tmp_path / "model")
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        (model / name).write_bytes((model / name).read_text().encode(encoding))
    pruned = secateur.prune(model, HALF, tmp_path / "out", threads=1)
    AutoModelForCausalLM.from_pretrained(pruned.directory)
    AutoTokenizer.from_pretrained(pruned.directory)


def test_a_broken_generation_config_is_named(tmp_path: Path) -> None:
    model = tiny_checkpoint("llama", tmp_path / "model")
    (model / "generation_config.json").write_text('{"eos_token_id":')
    with pytest.raises(UnsupportedCheckpoint, match=r"generation_config\.json is not JSON"):
        secateur.prune(model, HALF, tmp_path / "out", threads=1)


def with_templates(directory: Path) -> Path:
    """A checkpoint with three chat templates and other files beside its weights."""
    tiny_checkpoint("llama", directory)
    tokenizer = tiny_tokenizer("llama")
    tokenizer.chat_template = {"default": TEMPLATE, "rag": f"RAG {TEMPLATE}", "tool_use": f"TOOLS {TEMPLATE}"}
    tokenizer.save_pretrained(directory)
    for name in ("chat_template.json", "preprocessor_config.json", "tekken.json", "LICENSE", "Notice.txt"):
        (directory / name).write_text('{"chat_template": "x"}')
    for name in ("README.md", "pytorch_model.bin", "picture.png", "许可证.txt", "LICENSE-许可证"):
        (directory / name).write_text("x")
    (directory / "original").mkdir()
    (directory / ".gitattributes").write_text("x")
    return directory


def test_files_beside_the_weights_are_carried_or_named(tmp_path: Path) -> None:
    model = with_templates(tmp_path / "model")
    pruned = secateur.prune(model, HALF, tmp_path / "out", threads=1)
    before, after = (AutoTokenizer.from_pretrained(path).chat_template for path in (model, pruned.directory))
    assert before == after
    assert sorted(after) == ["default", "rag", "tool_use"]
    for name in ("chat_template.json", "preprocessor_config.json", "tekken.json", "LICENSE", "Notice.txt"):
        assert (pruned.directory / name).read_bytes() == (model / name).read_bytes()
    (behind,) = [note for note in notes(pruned).splitlines() if "stays behind" in note]
    for name in ("README.md", "pytorch_model.bin", "picture.png", "LICENSE-许可证", "original/"):
        assert name in behind
    assert "gitattributes" not in behind
    assert "additional_chat_templates" not in behind
    page = (pruned.directory / "report.html").read_text()
    assert "picture.png" in page


def test_a_cut_vocabulary_keeps_every_template_and_drops_what_goes_by_old_ids(tmp_path: Path) -> None:
    model = with_templates(tmp_path / "model")
    said: list[str] = []
    spec = {
        "structure": {"vocabulary": {"size": 330, "texts": [{"source": f"file:{tiny_text(tmp_path / 't')}"}]}}
    }
    pruned = secateur.prune(
        model, spec, tmp_path / "out", threads=1, told=lambda event: said.append(getattr(event, "text", ""))
    )
    assert sorted(AutoTokenizer.from_pretrained(pruned.directory).chat_template) == [
        "default",
        "rag",
        "tool_use",
    ]
    assert not (pruned.directory / "tekken.json").exists()
    assert (pruned.directory / "LICENSE").exists()
    assert any("old ids" in text and "tekken.json" in text for text in said)


@pytest.mark.parametrize("name", ["通义-模型", "my model (final)", "a:b?c*d", "model", "x" * 250, "…"])
def test_any_folder_name_becomes_a_storage_name(tmp_path: Path, name: str) -> None:
    model = tiny_checkpoint("llama", tmp_path / "first")
    shutil.move(model, tmp_path / name)
    pruned = secateur.prune(
        tmp_path / name, HALF, tmp_path / "out", threads=1, storage=tmp_path / "store #1 %20"
    )
    assert isinstance(pruned.report, ReportDocument)
    assert pruned.report.summary.model == name
    assert name in (pruned.directory / "README.md").read_text()
    prefix = pruned.report.data.manifest_prefix
    assert prefix.isascii()
    assert (name == "model") == prefix.startswith("published/model-")
    assert list(LocalStore(tmp_path / "store #1 %20").list(f"{prefix}/"))
    AutoModelForCausalLM.from_pretrained(pruned.directory)


def test_relative_paths_start_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_checkpoint("llama", tmp_path / "real" / "model")
    tiny_text(tmp_path / "real")
    (tmp_path / "real" / "deep" / "here").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real" / "deep" / "here")
    monkeypatch.chdir(tmp_path)
    spec = {
        **HALF,
        "calibration": {"source": "file:link/../../text.txt", "samples": 2, "sequence_length": 16},
    }
    spec["prune"] = {**HALF["prune"], "method": {"kind": "wanda"}}
    pruned = secateur.prune("link/../../model", spec, "link/../out", threads=1)
    assert isinstance(pruned.report, ReportDocument)
    assert pruned.report.summary.model == "model"
    assert (tmp_path / "real" / "deep" / "out" / "config.json").is_file()


def long_rope(directory: Path) -> Path:
    """Phi-3 with factor lists that follow from hidden_size / heads."""
    tiny_checkpoint("phi3", directory)
    lists = {"short_factor": [1.0] * 8, "long_factor": [2.0] * 8}
    return edited(
        directory,
        without=("rope_parameters",),
        rope_scaling={"type": "longrope", **lists},
        rope_theta=1e4,
        original_max_position_embeddings=64,
    )


def test_sizes_of_which_there_is_no_model_are_refused_with_the_nearest(tmp_path: Path) -> None:
    model = long_rope(tmp_path / "model")
    asked = {"criterion": {"kind": "magnitude"}, "hidden_size": 48}
    with pytest.raises(InvalidSpec, match=r"short_factor.*nearest valid: hidden_size=64, or") as caught:
        secateur.prune(model, {"structure": asked}, tmp_path / "out", threads=1, storage=tmp_path / "store")
    assert caught.value.param == "spec.structure.hidden_size"
    assert not list((tmp_path / "store").glob("results/*"))  # nothing was computed
    found = re.findall(r"hidden_size=(\d+) with num_attention_heads=(\d+)", caught.value.message)
    hidden, heads = map(int, found[-1])
    spec = {"structure": {**asked, "hidden_size": hidden, "num_attention_heads": heads}}
    made = secateur.prune(model, spec, tmp_path / "out", threads=1)
    AutoModelForCausalLM.from_pretrained(made.directory)
