"""A fresh process in which transformers says what it makes of the answers of a target.

    python -m workers.targets.reference < {"opening": {...}, "answers": [...], "texts": [...]}

An answer has a `prompt`, the generated `tokens`, and `top`, the target's log-probabilities by token for each
of them. Shapes: N generated tokens, V vocabulary.
"""

import json
import os
import sys
from typing import Any


def judged(asked: dict[str, Any]) -> dict[str, Any]:
    """For each answer and token, transformers' log-probabilities of the same tokens, of the chosen one and of
    the likeliest one; and the tokens of each text. The model is computed in float32, on the CPU."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    directory = asked["opening"]["directory"]
    torch.set_num_threads(asked["opening"]["threads"])
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    scores = []
    for answer in asked["answers"]:
        prompt, tokens = answer["prompt"], answer["tokens"]
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *tokens]]), use_cache=False).logits[0]
        logprobs_NV = logits[len(prompt) - 1 : -1].float().log_softmax(-1)
        scores.append(
            [
                {
                    "top": {i: float(row_V[int(i)]) for i in top},
                    "chosen": float(row_V[token]),
                    "best": float(row_V.max()),
                }
                for row_V, token, top in zip(logprobs_NV, tokens, answer["top"], strict=True)
            ]
        )
    tokenizer = AutoTokenizer.from_pretrained(directory) if asked["texts"] else None
    tokenized = [tokenizer(text).input_ids for text in asked["texts"]] if tokenizer is not None else []
    return {"scores": scores, "tokenized": tokenized}


def main() -> None:
    """Write one line of JSON to standard output; what libraries print goes to standard error."""
    written = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    written.write(json.dumps(judged(json.load(sys.stdin))) + "\n")
    written.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
