"""Wanda by llm-compressor, in an environment that has it. Prints one line of JSON; see bench/peers.py.

Shape legend: N samples, L tokens.
"""

import json
import sys
import time
from pathlib import Path

import torch
from memory_of import idle_bytes, peak_bytes
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer


def main(model: Path, tokens: Path, out: Path) -> None:
    """Prune half of the weights of all linears but the head, and save the model."""
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modifiers.pruning import WandaPruningModifier

    samples_NL = load_file(tokens)["tokens"]
    idle = idle_bytes()
    started = time.monotonic()
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    rows = [{"input_ids": one.tolist(), "attention_mask": [1] * len(one)} for one in samples_NL]
    oneshot(
        model=loaded,
        tokenizer=AutoTokenizer.from_pretrained(model),
        dataset=Dataset.from_list(rows),
        recipe=WandaPruningModifier(
            sparsity=0.5, mask_structure="0:0", targets=["Linear"], ignore=["re:.*lm_head"]
        ),
        max_seq_length=samples_NL.shape[1],
        num_calibration_samples=len(samples_NL),
        shuffle_calibration_samples=False,
    )
    seconds = time.monotonic() - started
    figures = {"seconds": seconds, "peak": peak_bytes(), "idle": idle}
    loaded.save_pretrained(out)
    print(json.dumps(figures))


if __name__ == "__main__":
    main(*(Path(one) for one in sys.argv[1:4]))
