"""A process that holds one model in vLLM, and answers what lm-eval asks.

    python -m workers.harness.vllm_child

It runs in the Python that has vLLM, so it imports nothing of this project. Each line of standard input is a
request in JSON, and each line of standard output its answer; what vLLM prints goes to standard error.

    {"open": {"directory", "dtype", "gpus", "positions", "sequences"}}     {"version"}
    {"score": [{"tokens", "answer"}]}                    {"scored": [[sum of log-probabilities, is greedy]]}
    {"generate": [{"tokens", "sampling"}]}               {"generated": [ids]}

`answer`: how many tokens at the end of a sequence are scored, given those before them.
"""

import json
import os
import sys
from typing import Any

# Everything of one GPU in one process, so that nothing is left behind.
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
}
CPU_CACHE_GIB = "4"


class Engine:
    """One model in vLLM: `gpus` GPUs share it, or the CPU holds it. `positions`: the longest sequence, with
    one generated token. `sequences`: how many are computed together."""

    def __init__(self, directory: str, *, dtype: str, gpus: int, positions: int, sequences: int) -> None:
        os.environ.update(ENVIRONMENT)
        if not gpus:
            os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", CPU_CACHE_GIB)
        import vllm

        self._vllm = vllm
        self.version = str(vllm.__version__)
        self._llm = vllm.LLM(
            directory,
            dtype=dtype,
            max_model_len=positions,
            tensor_parallel_size=max(gpus, 1),
            enable_prefix_caching=False,  # the log-probabilities of a cached beginning are not computed
            disable_log_stats=True,
            enforce_eager=not gpus,
            max_num_seqs=sequences,
            trust_remote_code=False,
        )

    def score(self, asked: list[dict[str, Any]]) -> list[tuple[float, bool]]:
        """The log-probability of the answer at the end of each sequence, and whether each of its tokens is
        the likeliest one."""
        only = self._vllm.SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=1, detokenize=False)
        prompts = [{"prompt_token_ids": one["tokens"]} for one in asked]
        found = self._llm.generate(prompts, only, use_tqdm=False)
        return [_scored(one, answer) for one, answer in zip(asked, found, strict=True)]

    def generate(self, asked: list[dict[str, Any]]) -> list[list[int]]:
        """The tokens that follow each sequence."""
        prompts = [{"prompt_token_ids": one["tokens"]} for one in asked]
        sampling = [self._vllm.SamplingParams(**one["sampling"]) for one in asked]
        found = self._llm.generate(prompts, sampling, use_tqdm=False)
        return [[int(token) for token in answer.outputs[0].token_ids] for answer in found]


def _scored(asked: dict[str, Any], found: Any) -> tuple[float, bool]:
    tokens, begins = asked["tokens"], len(asked["tokens"]) - asked["answer"]
    total, greedy = 0.0, True
    for token, likely in zip(tokens[begins:], found.prompt_logprobs[begins:], strict=True):
        own = likely[token]
        total += float(own.logprob)
        greedy = greedy and own.logprob == max(one.logprob for one in likely.values())
    return total, greedy


def main() -> None:
    """Answer until standard input ends. An exception ends the process with its traceback on standard
    error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    engine: Engine | None = None
    for line in sys.stdin:
        ((kind, asked),) = json.loads(line).items()
        if engine is None:
            engine = Engine(asked.pop("directory"), **asked)
            answer: dict[str, Any] = {"version": engine.version}
        elif kind == "score":
            answer = {"scored": engine.score(asked)}
        else:
            answer = {"generated": engine.generate(asked)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    os._exit(0)  # vLLM keeps threads that end late


if __name__ == "__main__":
    main()
