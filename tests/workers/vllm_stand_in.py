"""Answers as workers/harness/vllm_child.py does, with transformers in this Python, so that the protocol and
the cutting of tokens are tested where there is no vLLM."""

import json
import os
import sys
from typing import Any

import torch
from transformers import AutoModelForCausalLM


class Model:
    """One model, which refuses what vLLM would refuse."""

    def __init__(self, directory: str, *, dtype: str, gpus: int, positions: int, sequences: int) -> None:
        assert gpus == 0
        assert sequences > 0
        self._model = AutoModelForCausalLM.from_pretrained(directory, dtype=getattr(torch, dtype)).eval()
        self._positions = positions

    def score(self, asked: list[dict[str, Any]]) -> list[tuple[float, bool]]:
        return [self._scored(one["tokens"], one["answer"]) for one in asked]

    def generate(self, asked: list[dict[str, Any]]) -> list[list[int]]:
        return [self._generated(one["tokens"], one["sampling"]) for one in asked]

    def _scored(self, tokens: list[int], answer: int) -> tuple[float, bool]:
        assert len(tokens) + 1 <= self._positions, "vLLM generates one token"
        with torch.no_grad():
            logits_LV = self._model(torch.tensor([tokens[:-1]])).logits[0].log_softmax(-1)
        wanted = torch.tensor(tokens[len(tokens) - answer :])
        of_answer = logits_LV[len(tokens) - 1 - answer :]
        own = of_answer.gather(1, wanted[:, None])
        return float(own.sum()), bool((of_answer.argmax(-1) == wanted).all())

    def _generated(self, tokens: list[int], sampling: dict[str, Any]) -> list[int]:
        assert sampling["temperature"] == 0
        assert len(tokens) + sampling["max_tokens"] <= self._positions
        prompt_1L = torch.tensor([tokens])
        made = self._model.generate(
            prompt_1L,
            attention_mask=torch.ones_like(prompt_1L),
            max_new_tokens=sampling["max_tokens"],
            do_sample=False,
        )
        return [int(token) for token in made[0, len(tokens) :]]


def main() -> None:
    """Answer until standard input ends."""
    model: Model | None = None
    for line in sys.stdin:
        ((kind, asked),) = json.loads(line).items()
        if model is None:
            model = Model(asked.pop("directory"), **asked)
            answer: dict[str, Any] = {"version": "stand-in"}
        elif kind == "score":
            answer = {"scored": model.score(asked)}
        else:
            answer = {"generated": model.generate(asked)}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
