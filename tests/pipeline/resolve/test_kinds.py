"""A directory that is no checkpoint is told apart, and the advice works as it stands."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

from pipeline.architecture.wrappers import WRAPPERS
from pipeline.checkpoint.importing import import_checkpoint
from pipeline.errors import InvalidRequest, UnsupportedCheckpoint, UnsupportedModel
from pipeline.resolve.model import model_pin
from pipeline.sources import SourceAccess, open_source
from pipeline.storage import ContentStore, LocalStore
from tests.models import tiny_checkpoint, tiny_config

of_peft = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
CODE = re.compile(r"python -c ('.*?save_pretrained\(.NEW.\)')")


def refused(path: Path) -> str:
    """The sentence with which a source is refused."""
    with pytest.raises(InvalidRequest) as caught:
        model_pin(open_source(f"file:{path}", SourceAccess(allowed_roots=(Path("/"),))))
    return caught.value.message


def advised(message: str, directory: Path) -> Path:
    """Runs the Python command in a message; returns what it saved."""
    found = CODE.search(message)
    assert found is not None, message
    (code,) = shlex.split(found[1])
    subprocess.run([sys.executable, "-c", code], cwd=directory, check=True, capture_output=True)
    return directory / "NEW"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint("llama", tmp_path_factory.mktemp("kinds") / "base")


@pytest.mark.slow
@of_peft
def test_an_adapter_names_its_base_and_is_merged_as_advised(base: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(base)
    wrapped = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    adapter = tmp_path / "it's an adapter"
    wrapped.save_pretrained(adapter)
    message = refused(adapter)
    assert f"is a LoRA adapter of {base}" in message
    (adapter / "config.json").write_bytes((base / "config.json").read_bytes())  # as some do next
    assert refused(adapter) == message
    merged = AutoModelForCausalLM.from_pretrained(advised(message, tmp_path))
    tokens = torch.arange(20)[None]
    with torch.no_grad():
        assert torch.allclose(merged(tokens).logits, wrapped(tokens).logits, atol=1e-4)
    assert model_pin(open_source(f"file:{tmp_path}/NEW", SourceAccess(allowed_roots=(tmp_path,)))).files


@of_peft
def test_a_merge_that_was_forgotten_is_seen_in_the_names(base: Path, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path / "model")
    wrapped = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=2, target_modules=["q_proj"])
    )
    tensors = {name: tensor.clone() for name, tensor in wrapped.state_dict().items()}
    save_file(tensors, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    source = open_source(f"file:{tmp_path}/model", SourceAccess(allowed_roots=(tmp_path,)))
    with pytest.raises(UnsupportedCheckpoint, match=r"never merged.*base_layer.*merge_and_unload"):
        list(import_checkpoint(model_pin(source), source, ContentStore(LocalStore(tmp_path / "store"))))


@pytest.mark.slow
def test_the_language_model_of_a_multimodal_one_is_saved_as_advised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = tiny_config("gemma3_text").to_dict()
    sight = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = AutoConfig.for_model(
        "gemma3",
        text_config=text,
        vision_config={"model_type": "siglip_vision_model", **sight, "image_size": 28, "patch_size": 14},
        mm_tokens_per_image=4,
    )
    whole = AutoModelForImageTextToText.from_config(config)
    whole.save_pretrained(tmp_path / "wrapper")
    monkeypatch.delitem(WRAPPERS, "gemma3")  # as if the multimodal type had no row
    message = refused(tmp_path / "wrapper")
    assert "'gemma3'" in message
    assert "text_config" in message
    assert "gemma3_text, which can be pruned by itself" in message
    alone = AutoModelForCausalLM.from_pretrained(advised(message, tmp_path))
    tokens = torch.arange(20)[None]
    with torch.no_grad():
        assert torch.allclose(alone(tokens).logits, whole.eval()(input_ids=tokens).logits, atol=1e-5)


@pytest.mark.parametrize("model_type", ["qwen3_omni", "llama9_text", "ernie4_5_moe", "gemma9"])
def test_a_new_type_is_no_slip_of_the_pen(base: Path, tmp_path: Path, model_type: str) -> None:
    message = refused(changed(base, tmp_path / "model", model_type=model_type))
    assert f"{model_type!r}" in message
    assert "did you mean" not in message
    assert "known types: apertus" in message


def test_a_wrapper_around_an_unknown_type_names_both(base: Path, tmp_path: Path) -> None:
    path = changed(base, tmp_path / "model", model_type="llama4", text_config={"model_type": "llama9_text"})
    with pytest.raises(UnsupportedModel, match=r"'llama4'.*wraps.*'llama9_text' has no row either"):
        model_pin(open_source(f"file:{path}", SourceAccess(allowed_roots=(tmp_path,))))


def changed(base: Path, path: Path, **fields: object) -> Path:
    """A checkpoint with other fields in its config.json."""
    path.mkdir()
    config = json.loads((base / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, **fields}))
    (path / "model.safetensors").write_bytes((base / "model.safetensors").read_bytes())
    return path


def files(*names: str) -> Callable[[Path], None]:
    """Writes empty files, in folders where their names have slashes."""

    def write(path: Path) -> None:
        for name in names:
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(b"{}")

    return write


KINDS: Mapping[str, tuple[Callable[[Path], None], str]] = {
    "zero": (
        files("zero_to_fp32.py", "trainer_state.json", "latest", "global_step10/zero_pp_rank_0.pt"),
        r"ZeRO \(global_step10\).*python \S+/zero_to_fp32.py \S+ NEW --safe_serialization",
    ),
    "fsdp": (
        files("pytorch_model_fsdp_0/__0_0.distcp"),
        r"accelerate merge-weights \S+/pytorch_model_fsdp_0 NEW",
    ),
    "trainer": (
        files("optimizer.pt", "trainer_state.json", "training_args.bin", "rng_state.pth"),
        r"checkpoint of a trainer \(optimizer.pt, .* without weights; call trainer.save_model",
    ),
    "trainer's output": (
        files("checkpoint-10/model.safetensors", "runs/x"),
        r"name that: checkpoint-10, runs",
    ),
    "pickles": (
        files("pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json", "training_args.bin"),
        r"only pickle weights \(pytorch_model-00001-of-00002.bin\).*python -c '.*safetensors",
    ),
    "onnx": (files("config.json", "onnx/model.onnx"), "is an ONNX model"),
    "onnx beside": (files("config.json", "model.onnx"), "is an ONNX model"),
    "ctranslate2": (files("config.json", "model.bin", "vocabulary.json"), "is a CTranslate2 model"),
    "openvino": (files("openvino_model.xml", "openvino_model.bin"), "is an OpenVINO model"),
    "mlx": (files("weights.npz"), "is an MLX model"),
    "gguf": (files("tiny.Q4_K_M.gguf"), "secateur import-gguf tiny.Q4_K_M.gguf"),
    "consolidated": (files("params.json", "consolidated.00.pth"), r"maker's own format \(params.json\)"),
    "mistral's": (files("params.json", "consolidated.safetensors"), r"maker's own format \(params.json\)"),
    "prompt": (files("adapter_model.safetensors"), "has no .*safetensors weights"),
    "nothing": (files(), "Found: nothing"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_other_directories(tmp_path: Path, kind: str) -> None:
    make, told = KINDS[kind]
    (tmp_path / "it").mkdir()
    make(tmp_path / "it")
    assert re.search(told, refused(tmp_path / "it")), refused(tmp_path / "it")


def test_a_prompt_adapter_cannot_be_merged(tmp_path: Path) -> None:
    files("adapter_model.safetensors")(tmp_path)
    (tmp_path / "adapter_config.json").write_text(
        '{"peft_type": "PROMPT_TUNING", "base_model_name_or_path": "org/base"}'
    )
    assert "PROMPT_TUNING adapter of org/base" in refused(tmp_path)
    assert "merge_and_unload" not in refused(tmp_path)


def test_the_cache_of_a_hub(base: Path, tmp_path: Path) -> None:
    root = tmp_path / "hub"
    model = root / "models--org--name"
    snapshot = model / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("a" * 40)
    assert "without a snapshot" in refused(model)
    (snapshot / "config.json").write_bytes((base / "config.json").read_bytes())
    assert f"name file:{snapshot} or hub:org/name" in refused(model)
    assert "the cache of a hub with 1 models; name one of them, such as hub:org/name" in refused(root)
