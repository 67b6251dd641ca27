"""llama.cpp, through the package xllamacpp: a GGUF file, written and opened."""

import json
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.targets.consumer import TOP, Generated, Opening, Timing, exported_file

FILE = "model.gguf"
ROWS = 64  # hidden states that are multiplied by the head at a time


def export(directory: Path, out: Path) -> None:
    """Write `model.gguf`."""
    from workers.targets.gguf_file import write_gguf  # the process that opens it has no torch

    write_gguf(directory, out / FILE)


def open_session(opening: Opening) -> "_Session":
    """Open the GGUF file."""
    return _Session(opening)


def open_scoring(opening: Opening) -> "_Scoring":
    """Open the GGUF file, to predict texts."""
    return _Scoring(opening)


class _Session:
    """See Session."""

    def __init__(self, opening: Opening) -> None:
        import xllamacpp

        self.version = str(xllamacpp.__version__)
        self._server = xllamacpp.Server(_parameters(opening))

    def generate(self, prompt: Sequence[int], tokens: int) -> Generated:
        """The answer, asked for one token at a time: in a longer one the server leaves out tokens that end
        within a character, and their log-probabilities. Here their `top` is empty."""
        ids, top = list(prompt), []
        for _ in range(tokens):
            asked = {**_asked(ids, 1), "n_probs": TOP, "return_tokens": True, "cache_prompt": True}
            answer = self._post("/completion", asked)
            ids += answer["tokens"]
            steps = answer.get("completion_probabilities", ())
            top.append({one["id"]: one["logprob"] for step in steps for one in step["top_logprobs"]})
        return Generated(ids[len(prompt) :], top)

    def timed(self, prompt: Sequence[int], tokens: int) -> Timing:
        """By the server's own clock. It counts the prompt until the first token can be chosen."""
        answer = self._server.handle_completions(_asked(prompt, tokens))
        _check(answer)
        clock = answer["timings"]
        if clock["predicted_n"] != tokens or clock["prompt_n"] != len(prompt):
            raise RuntimeError(f"{len(prompt)} and {tokens} tokens were asked for, got {clock}")
        return Timing(first_token=clock["prompt_ms"] / 1000, decode=clock["predicted_ms"] / 1000)

    def tokenize(self, text: str) -> list[int] | None:
        """The ids of the tokenizer in the file."""
        tokens: list[int] = self._post("/tokenize", {"content": text, "add_special": True})["tokens"]
        return tokens

    def _post(self, path: str, body: dict[str, object]) -> dict[str, Any]:
        found: dict[str, Any] = _posted(self._server, path, body)
        return found


class _Scoring:
    """See ScoringSession. The server tells no probability of a given token. It tells the hidden states that
    its blocks make of a text, which are multiplied here by the head as it lies in the file."""

    def __init__(self, opening: Opening) -> None:
        import xllamacpp

        params = _parameters(opening)
        params.embedding = True
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_NONE
        params.n_batch = params.n_ubatch = opening.length  # a text must fit into one pass
        self.version = str(xllamacpp.__version__)
        self._head_VH = _head(exported_file(opening, ".gguf"))
        self._server = xllamacpp.Server(params)

    def loss(self, tokens: Sequence[int], scored: int) -> float:
        """In float32, and summed in float64."""
        (made,) = _posted(self._server, "/embeddings", {"content": list(tokens)})
        predicting_LH = np.array(made["embedding"], np.float32)[:-1][-scored:]
        targets_L = np.array(tokens)[1:][-scored:]
        total = 0.0
        for start in range(0, scored, ROWS):
            logits_RV = (predicting_LH[start : start + ROWS] @ self._head_VH.T).astype(np.float64)
            logits_RV -= logits_RV.max(axis=1, keepdims=True)
            targets_R = targets_L[start : start + ROWS]
            chosen_R = logits_RV[np.arange(len(targets_R)), targets_R]
            total += float((np.log(np.exp(logits_RV).sum(axis=1)) - chosen_R).sum())
        return total


def _parameters(opening: Opening) -> Any:
    """The parameters of a server for one request at a time, on the CPU."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(exported_file(opening, ".gguf"))
    params.n_ctx = opening.length
    params.n_parallel = 1
    params.n_gpu_layers = 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = opening.threads
    params.verbosity = -1
    if opening.exact:
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.ctx_shift = False
    return params


def _head(path: Path) -> NDArray[np.float32]:
    """The head of a GGUF file, which may be its embedding: [V, H]."""
    from gguf import GGUFReader
    from gguf.quants import dequantize

    found = {tensor.name: tensor for tensor in GGUFReader(path).tensors}
    tensor = found.get("output.weight", found["token_embd.weight"])
    head_VH: NDArray[np.float32] = dequantize(tensor.data, tensor.tensor_type)
    return head_VH


def _posted(server: Any, path: str, body: dict[str, object]) -> Any:
    """The answer of a server, which listens on loopback, on a free port."""
    asked = urllib.request.Request(
        f"{server.listening_address}{path}",
        json.dumps(body).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(asked, timeout=600) as answer:
        return json.load(answer)


def _asked(prompt: Sequence[int], tokens: int) -> dict[str, object]:
    return {
        "prompt": list(prompt),
        "n_predict": tokens,
        "temperature": 0,
        "ignore_eos": True,
        "cache_prompt": False,
    }


def _check(answer: dict[str, Any]) -> None:
    if "error" in answer or answer.get("code"):
        raise RuntimeError(f"llama.cpp refused a request: {answer}")
