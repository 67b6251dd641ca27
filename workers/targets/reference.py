"""A fresh process in which transformers says what it makes of the answers of a target.

    python -m workers.targets.reference < {"opening": {...}, "answers": [...], "dtype": null, "texts": [...]}

An answer has a `prompt`, the generated `tokens`, and `top`, the target's log-probabilities by token for each
of them. Shapes: N generated tokens, V vocabulary.
"""

import json
import os
import sys
from typing import Any


def judged(asked: dict[str, Any]) -> dict[str, Any]:
    """For each answer and token, transformers' log-probabilities of the same tokens, of the chosen one and of
    the likeliest one, computed in float32 on the CPU; and the tokens of each text. `rounding`: by how much,
    at most, they change where transformers itself computes in the 16-bit `dtype` that is asked for. Where the
    target rounds weights to packed `values`, transformers gets the same rounded weights."""
    import torch
    from transformers import AutoTokenizer

    directory, values = asked["opening"]["directory"], asked["opening"]["values"]
    torch.set_num_threads(asked["opening"]["threads"])
    exact = _logprobs(directory, asked["answers"], "float32", values=values)
    scores = [
        [
            {
                "top": {i: float(row_V[int(i)]) for i in top},
                "chosen": float(row_V[token]),
                "best": float(row_V.max()),
            }
            for row_V, token, top in zip(logprobs_NV, answer["tokens"], answer["top"], strict=True)
        ]
        for logprobs_NV, answer in zip(exact, asked["answers"], strict=True)
    ]
    rounding = 0.0
    if asked["dtype"] is not None:
        rounded = _logprobs(directory, asked["answers"], asked["dtype"])
        for exact_NV, rounded_NV, answer in zip(exact, rounded, asked["answers"], strict=True):
            for i, top in enumerate(answer["top"]):
                ids = [int(one) for one in top]
                rounding = max([rounding, *(exact_NV[i, ids] - rounded_NV[i, ids]).abs().tolist()])
    tokenizer = AutoTokenizer.from_pretrained(directory) if asked["texts"] else None
    tokenized = [tokenizer(text).input_ids for text in asked["texts"]] if tokenizer is not None else []
    return {"scores": scores, "rounding": rounding, "tokenized": tokenized}


def _logprobs(
    directory: str, answers: list[dict[str, Any]], dtype: str, *, values: str | None = None
) -> list[Any]:
    """The log-probabilities before each generated token, float32 [N, V] for each answer."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(directory, dtype=getattr(torch, dtype)).eval()
    if values is not None:
        _round_weights(model, directory, values)
    found = []
    for answer in answers:
        prompt = answer["prompt"]
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *answer["tokens"]]]), use_cache=False).logits[0]
        found.append(logits[len(prompt) - 1 : -1].float().log_softmax(-1))
    return found


def _round_weights(model: Any, directory: str, values: str) -> None:
    """Round the weights that a target packs as it rounds them."""
    import torch

    from secateur.sparse import SparseLinear, load

    for name, linear in load(directory, values=values).named_modules():  # type: ignore[arg-type]
        if isinstance(linear, SparseLinear):
            with torch.no_grad():
                model.get_submodule(name).weight.copy_(linear.packed().dense())


def main() -> None:
    """Write one line of JSON to standard output; what libraries print goes to standard error."""
    written = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    written.write(json.dumps(judged(json.load(sys.stdin))) + "\n")
    written.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
