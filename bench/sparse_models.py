"""Whole models for sparse_cpu.py: two pruned checkpoints, and their tokens per second in each engine. This is
no bench itself.

Ours are opened as anybody would, and differ in their linears only: those of the blocks are sparse, dense by
kernels of the same make, or torch's. The head has no zeros; all but torch's read it in bfloat16. Every engine
runs in a process of its own.
"""

import concurrent.futures
import math
import multiprocessing
import shutil
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

import secateur
from jobs import calibration
from pipeline.spec.targets import GgufType
from secateur.sparse import SparseLinear, load
from workers.demo_data import DemoData
from workers.targets.consumer import Opening
from workers.targets.gguf_file import write_gguf
from workers.targets.gguf_types import write_as
from workers.targets.llama_cpp import open_session

SPARSITY = 0.7
PROMPT = 256
TYPES = {"bf16": torch.bfloat16, "int8": torch.int8}
LLAMA_CPP: dict[str, GgufType] = {
    "llamacpp_bf16": "BF16",
    "llamacpp_q8_0": "Q8_0",
    "llamacpp_q4_0": "Q4_0",
}
ENGINES = ("dense_bf16", "sparse_bf16", "dense_int8", "sparse_int8", "torch_fp32", *LLAMA_CPP)


@dataclass(frozen=True)
class Speed:
    """Tokens per second over all rounds, and the bytes of the weights in blocks."""

    prefill: list[float]
    decode: list[float]
    bytes: int = 0

    def median(self, figure: str) -> float:
        """The median of "prefill" or "decode"."""
        return statistics.median(asdict(self)[figure])


def pruned_demo(data: DemoData, directory: Path, *, samples: int, threads: int) -> Path:
    """The demo's model, pruned at 70 % by ADMM and ATP. An earlier one is taken again."""
    out = directory / f"demo-pruned-{samples}"
    if not (out / "config.json").exists():
        spec = {
            "calibration": calibration(data, samples=samples),
            "prune": {
                "method": {"kind": "admm"},
                "pattern": {"kind": "unstructured", "sparsity": SPARSITY},
                "allocation": {"kind": "atp", "step": 0.01},
            },
        }
        secateur.prune(data.model, spec, out, threads=threads)
    return out


def random_llama(data: DemoData, directory: Path) -> Path:
    """A Llama of 1.1 billion random bfloat16 weights, 70 % zeros in its blocks, and the demo's tokens."""
    out = directory / "random-llama"
    if (out / "complete").exists():
        return out
    tokenizer = AutoTokenizer.from_pretrained(data.model)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=2048,
        intermediate_size=5632,
        num_hidden_layers=22,
        num_attention_heads=32,
        num_key_value_heads=4,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    try:
        model = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(torch.float32)
    for linear in _block_linears(model).values():
        linear.weight.data.masked_fill_(torch.rand(linear.weight.shape) < SPARSITY, 0)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    (out / "complete").touch()
    return out


def write_ggufs(checkpoint: Path) -> None:
    """The checkpoint, which is stored in bfloat16, for llama.cpp in each type."""
    plain = checkpoint / "llamacpp_bf16.gguf"
    if not plain.exists():
        write_gguf(checkpoint, plain)
    for engine, kind in LLAMA_CPP.items():
        path = checkpoint / f"{engine}.gguf"
        if not path.exists():
            write_as(plain, path, kind)


def speed_of(engine: str, checkpoint: Path, *, threads: int, tokens: int, rounds: int) -> Speed:
    """Run one engine in a process of its own."""
    context = multiprocessing.get_context("spawn")
    run = _llama_cpp if engine in LLAMA_CPP else _ours
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(run, engine, checkpoint, threads, tokens, rounds).result()


def _ours(engine: str, checkpoint: Path, threads: int, tokens: int, rounds: int) -> Speed:
    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    kind, _, name = engine.partition("_")
    if kind == "torch":
        model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
        held = sum(linear.weight.nbytes for linear in _block_linears(model).values())
    else:
        model = load(checkpoint, values=name, kernels=kind)  # type: ignore[arg-type]
        report = model.sparse_report
        held = sum(one.nbytes for one in model.modules() if isinstance(one, SparseLinear))
        held = held or sum(math.prod(one.shape) * TYPES[name].itemsize for one in report.sparse)
    ids = torch.arange(1000, 1000 + PROMPT)[None]
    _run(model, ids, 2)
    timed = [_run(model, ids, tokens) for _ in range(rounds)]
    return Speed([one for one, _ in timed], [one for _, one in timed], held)


def _run(model: Any, ids: torch.Tensor, tokens: int) -> tuple[float, float]:
    """Tokens per second of a prompt, and of a greedy answer to it."""
    started = time.perf_counter()
    made = model(ids, use_cache=True, logits_to_keep=1)
    first = time.perf_counter()
    for _ in range(tokens - 1):
        following = made.logits[:, -1:].argmax(-1)
        made = model(following, past_key_values=made.past_key_values, use_cache=True)
    return ids.shape[1] / (first - started), (tokens - 1) / (time.perf_counter() - first)


def _llama_cpp(engine: str, checkpoint: Path, threads: int, tokens: int, rounds: int) -> Speed:
    exported = checkpoint / engine
    shutil.rmtree(exported, ignore_errors=True)
    exported.mkdir()
    (exported / "model.gguf").hardlink_to(checkpoint / f"{engine}.gguf")
    session = open_session(
        Opening(
            kind="llama.cpp",
            directory=str(checkpoint),
            exported=str(exported),
            threads=threads,
            length=PROMPT + tokens,
        )
    )
    prompt = list(range(1000, 1000 + PROMPT))
    session.timed(prompt, 2)
    timed = [session.timed(prompt, tokens) for _ in range(rounds)]
    prefill = [PROMPT / one.first_token for one in timed]
    return Speed(prefill, [(tokens - 1) / one.decode for one in timed])


def _block_linears(model: torch.nn.Module) -> dict[str, torch.nn.Linear]:
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and ".layers." in name
    }
