"""vLLM, which reads the checkpoint itself. Its Python may be another one (SECATEUR_VLLM_PYTHON), because it
pins torch and transformers."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from workers.targets.consumer import TOP, Generated, Opening, Timing, on_the_clock

# Everything in one process, so that its memory is that of the process, and nothing is left behind.
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
}
CPU_CACHE_GIB = "1"


def export(directory: Path, out: Path) -> None:
    """Nothing is written."""


def open_session(opening: Opening) -> "_Session":
    """Open the checkpoint, in float32 on a CPU and in its own type on GPUs."""
    return _Session(opening)


class _Session:
    def __init__(self, opening: Opening) -> None:
        os.environ.update(ENVIRONMENT)
        if not opening.gpus:
            os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", CPU_CACHE_GIB)
        import vllm

        self._vllm = vllm
        self.version = str(vllm.__version__)
        self._llm = vllm.LLM(
            opening.directory,
            dtype="auto" if opening.gpus else "float32",
            max_model_len=opening.length,
            tensor_parallel_size=max(opening.gpus, 1),
            max_logprobs=TOP,
            enable_prefix_caching=False,
            enforce_eager=True,
            disable_log_stats=True,
            max_num_seqs=1,
            skip_tokenizer_init=True,
        )

    def generate(self, prompt: Sequence[int], tokens: int) -> Generated:
        """The answer with its log-probabilities."""
        asked = self._parameters(tokens, logprobs=TOP)
        (answer,) = self._llm.generate({"prompt_token_ids": list(prompt)}, asked, use_tqdm=False)
        made = answer.outputs[0]
        top = [{int(i): float(one.logprob) for i, one in step.items()} for step in made.logprobs]
        return Generated([int(token) for token in made.token_ids], top)

    def timed(self, prompt: Sequence[int], tokens: int) -> Timing:
        """The engine is stepped by hand; a step gives one token."""
        return on_the_clock(self._arrivals(prompt, tokens), tokens)

    def tokenize(self, text: str) -> list[int] | None:
        """It uses transformers' tokenizer, which there is no need to compare with itself."""
        return None

    def _arrivals(self, prompt: Sequence[int], tokens: int) -> Iterator[None]:
        engine = self._llm.llm_engine
        engine.add_request("timed", {"prompt_token_ids": list(prompt)}, self._parameters(tokens))
        came = 0
        while engine.has_unfinished_requests():
            for answer in engine.step():
                for _ in range(len(answer.outputs[0].token_ids) - came):
                    yield
                came = len(answer.outputs[0].token_ids)

    def _parameters(self, tokens: int, logprobs: int | None = None) -> Any:
        return self._vllm.SamplingParams(
            temperature=0,
            max_tokens=tokens,
            min_tokens=tokens,
            ignore_eos=True,
            logprobs=logprobs,
            detokenize=False,
        )
