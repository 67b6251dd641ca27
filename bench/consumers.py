"""The speed of a checkpoint in transformers, onnxruntime and llama.cpp, on two threads. This is a part of
benches and needs: pip install 'secateur[targets]'.

transformers and llama.cpp generate greedily after a short prompt, and the generated tokens per second count.
onnxruntime runs forward passes over 256 tokens, and these tokens per second count. transformers and
onnxruntime compute in float32, llama.cpp with the stored bfloat16.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from workers.targets.gguf_file import write_gguf

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


def llama_cpp_consumer(directory: Path, *, at: Path, tokens: int) -> Consumer:
    """Generation in llama.cpp, which gets the checkpoint as GGUF."""
    import xllamacpp

    path = at / f"{directory.name}.gguf"
    write_gguf(directory, path)
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
