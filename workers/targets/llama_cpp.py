"""llama.cpp, through the package xllamacpp: a GGUF file, written and opened."""

import json
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from workers.targets.consumer import TOP, Generated, Opening, Timing, exported_file

FILE = "model.gguf"


def export(directory: Path, out: Path) -> None:
    """Write `model.gguf`."""
    from workers.targets.gguf_file import write_gguf  # the process that opens it has no torch

    write_gguf(directory, out / FILE)


def open_session(opening: Opening) -> "_Session":
    """Open the GGUF file."""
    return _Session(opening)


class _Session:
    def __init__(self, opening: Opening) -> None:
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
        self.version = str(xllamacpp.__version__)
        self._server = xllamacpp.Server(params)

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
        """The server listens on loopback, on a free port."""
        asked = urllib.request.Request(
            f"{self._server.listening_address}{path}",
            json.dumps(body).encode(),
            {"content-type": "application/json"},
        )
        with urllib.request.urlopen(asked, timeout=600) as answer:
            found: dict[str, Any] = json.load(answer)
        return found


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
