"""Pruning of a model whose weights need four times a worker's memory, while the kernel enforces the limit.

A synthetic Llama of random bfloat16 weights, four times `memory_per_worker` in size, is pruned to 50 % by
Wanda, and cut to three quarters of its width by activations, each as a whole job on a local Ray. Every worker
process is put into a memory cgroup of its own, limited to the ceiling, as soon as it appears: the kernel
kills a process that exceeds it. This needs a writable memory controller (cgroup v1 or v2; root in a container
has one), and exits with a message where there is none.

`--quick`: a lower ceiling, so a smaller model. Exits with 1 when a job fails, a process was killed for its
memory, a linear is not half zeros, or a size is not the one that was asked for.
"""

import json
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig

from jobs import Ran, calibration, parser_of, run_job
from pipeline.artifacts.sparsity import SparsityTable
from pipeline.structure.table import SizeTable
from workers.demo_data import DemoData, prepare_demo

TIMES = 4
HIDDEN, FFN, HEADS = 1024, 2816, 16
PRUNE = {"method": {"kind": "wanda"}, "pattern": {"kind": "unstructured", "sparsity": 0.5}}
CUT = {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 2112}
LOOK_SECONDS = 0.02


def main() -> None:
    """Print a table and one line of JSON."""
    arguments = parser_of(__doc__, quick="a ceiling of 768 MiB instead of 1 GiB").parse_args()
    ceiling = 3 * 2**28 if arguments.quick else 2**30
    data = prepare_demo(arguments.data)
    with tempfile.TemporaryDirectory(prefix="secateur-bench-") as name:
        directory = Path(name)
        size = synthetic(directory / "model", data, at_least=TIMES * ceiling)
        with limited(ceiling) as cells:
            pruned = run_job("prune", _request(directory, data, ceiling, prune=PRUNE), directory)
            cut = run_job("slice", _request(directory, data, ceiling, structure=CUT), directory)
        table = pruned.load("prune", "keep", SparsityTable)
        sizes = cut.load("slice", "cut", SizeTable)
    figures = {
        "ceiling_mb": round(ceiling / 1e6, 1),
        "weights_mb": round(size / 1e6, 1),
        "times": round(size / ceiling, 2),
        "processes_limited": len(cells.failures),
        "killed_for_memory": sum(cells.failures.values()),
        **_measured("prune", pruned, "prune"),
        "sparsity": round(table.sparsity, 4),
        **_measured("measure", cut, "measure_structure"),
        **_measured("slice", cut, "slice"),
        "cut_parameters_share": round(sizes.cut_parameters / sizes.dense_parameters, 4),
    }
    for key, value in figures.items():
        print(f"{key:>20}  {value}")
    print(json.dumps(figures))
    held = figures["killed_for_memory"] == 0 and figures["processes_limited"] > 0
    halves = all(abs(one.zeros / one.weights - 0.5) < 1e-3 for one in table.linears)
    asked = all(getattr(sizes.cut, name) == value for name, value in CUT.items())
    sys.exit(0 if held and halves and asked else 1)


def _request(directory: Path, data: DemoData, ceiling: int, **parts: dict[str, Any]) -> dict[str, Any]:
    return {
        "spec": {
            "model": {"source": f"file:{directory / 'model'}"},
            "calibration": calibration(data, samples=8, sequence_length=128),
            **parts,
        },
        "resources": {"workers": 1, "cpus_per_worker": 2, "memory_per_worker": f"{ceiling >> 20}MiB"},
    }


def _measured(name: str, ran: Ran, node: str) -> dict[str, float]:
    measured = ran.results[node].measured
    assert measured.peak_memory_bytes is not None
    return {
        f"{name}_peak_mb": round(measured.peak_memory_bytes / 1e6, 1),
        f"{name}_s": round(measured.seconds, 1),
    }


def synthetic(target: Path, data: DemoData, *, at_least: int) -> int:
    """Write a checkpoint of random blocks, a shard each, which is never whole in memory. Returns the bytes of
    its weights."""
    tokenizers = [file for file in data.model.iterdir() if "token" in file.name or file.name == "vocab.json"]
    vocabulary = json.loads((data.model / "config.json").read_text())["vocab_size"]
    block = {
        **{f"self_attn.{name}_proj.weight": (HIDDEN, HIDDEN) for name in "qkvo"},
        **{f"mlp.{name}_proj.weight": (FFN, HIDDEN) for name in ("gate", "up")},
        "mlp.down_proj.weight": (HIDDEN, FFN),
        **{f"{name}_layernorm.weight": (HIDDEN,) for name in ("input", "post_attention")},
    }
    per_block = 2 * sum(torch.Size(shape).numel() for shape in block.values())
    blocks = -(-(at_least - 2 * vocabulary * HIDDEN) // per_block)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=HIDDEN,
        intermediate_size=FFN,
        num_hidden_layers=blocks,
        num_attention_heads=HEADS,
        tie_word_embeddings=True,
        architectures=["LlamaForCausalLM"],
        dtype="bfloat16",
    )
    config.save_pretrained(target)
    for file in tokenizers:
        shutil.copy(file, target / file.name)
    shards = [{"model.embed_tokens.weight": (vocabulary, HIDDEN), "model.norm.weight": (HIDDEN,)}]
    shards += [{f"model.layers.{b}.{name}": shape for name, shape in block.items()} for b in range(blocks)]
    generator = torch.Generator().manual_seed(0)
    places, size = {}, 0
    for i, shapes in enumerate(shards, start=1):
        file = f"model-{i:05d}-of-{len(shards):05d}.safetensors"
        tensors = {}
        for name, shape in shapes.items():
            random = torch.ones(shape) if len(shape) == 1 else torch.randn(shape, generator=generator) * 0.02
            tensors[name] = random.bfloat16()
            size += tensors[name].nbytes
            places[name] = file
        save_file(tensors, target / file, metadata={"format": "pt"})
    index = {"metadata": {"total_size": size}, "weight_map": places}
    (target / "model.safetensors.index.json").write_text(json.dumps(index))
    return size


class Cells:
    """Puts each of Ray's worker processes below this one into a cgroup. `failures`: how often each was
    killed."""

    def __init__(self, ceiling: int) -> None:
        self._ceiling = ceiling
        self._root, self._limit = _controller()
        self._made: dict[int, Path] = {}
        self.failures: dict[int, int] = {}

    def look(self) -> None:
        """Limit the new processes."""
        for process in psutil.Process().children(recursive=True):
            pid = process.pid
            if pid in self._made:
                continue
            try:
                if not "".join(process.cmdline()).startswith("ray::"):
                    continue
                cell = self._root / f"secateur-bench-{pid}"
                cell.mkdir(exist_ok=True)
                (cell / self._limit).write_text(str(self._ceiling - _anonymous(process)))
                (cell / "cgroup.procs").write_text(str(pid))
            except (psutil.NoSuchProcess, ProcessLookupError):
                continue  # the process has ended meanwhile
            self._made[pid] = cell

    def close(self) -> None:
        """Count the killed processes, and remove the cgroups once they are empty."""
        for pid, cell in self._made.items():
            file = cell / ("memory.oom_control" if self._limit.endswith("in_bytes") else "memory.events")
            counts = dict(line.split() for line in file.read_text().splitlines())
            self.failures[pid] = int(counts["oom_kill"])
            while (cell / "cgroup.procs").read_text().strip():
                time.sleep(LOOK_SECONDS)
            cell.rmdir()


@contextmanager
def limited(ceiling: int) -> Iterator[Cells]:
    """Look for new processes, and limit them, while a block of code runs."""
    cells = Cells(ceiling)
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(LOOK_SECONDS):
            cells.look()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield cells
    finally:
        ended.set()
        thread.join()
        cells.close()


def _controller() -> tuple[Path, str]:
    """The directory where memory cgroups can be made, and the file name of their limit."""
    for root, limit in (
        (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
        (Path("/sys/fs/cgroup"), "memory.max"),
    ):
        if (root / "cgroup.procs").exists() and os.access(root, os.W_OK):
            return root, limit
    sys.exit("there is no memory cgroup to write to: run as root where cgroups are mounted writable")


def _anonymous(process: psutil.Process) -> int:
    """The bytes that a process has already. They stay charged to its first cgroup, so its limit is lower by
    them."""
    memory = process.memory_info()
    return int(memory.rss - memory.shared)


if __name__ == "__main__":
    main()
