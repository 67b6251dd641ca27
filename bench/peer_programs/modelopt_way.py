"""2:4 by ModelOpt (SparseGPT), in an environment that has it. Prints one line of JSON; see bench/peers.py.

ModelOpt has no Wanda and no unstructured sparsity, so its row is one of its own.

Shape legend: N samples, L tokens.
"""

import json
import sys
import time
from pathlib import Path

import torch
from memory_of import idle_bytes, peak_bytes
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM


def main(model: Path, tokens: Path, out: Path) -> None:
    """Prune 2:4 and save the model."""
    import modelopt.torch.sparsity as mts

    samples_NL = load_file(tokens)["tokens"]
    idle = idle_bytes()
    started = time.monotonic()
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    batches = [{"input_ids": one[None]} for one in samples_NL]
    config = {"data_loader": batches, "collect_func": lambda batch: batch}
    mts.sparsify(loaded, mode="sparsegpt", config=config)
    mts.export(loaded)
    seconds = time.monotonic() - started
    figures = {"seconds": seconds, "peak": peak_bytes(), "idle": idle}
    loaded.save_pretrained(out)
    print(json.dumps(figures))


if __name__ == "__main__":
    main(*(Path(one) for one in sys.argv[1:4]))
