"""The rate of a dense sweep beside that of the matrix products in it, for bench/sparsify.py.

Shape legend: T tokens, O out_features, I in_features.
"""

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pipeline.blocks.worker import SweepWorker
from pipeline.methods.wanda import Wanda
from tests.checkpoints import imported


def forwards(model: Path, tokens: Path, *, threads: int) -> None:
    """Print as JSON: the multiplications of a sample through a block (`whole`) and up to its last measured
    input (`cut`), the multiplications per second of the linears' products alone (`rate`), and the rate of a
    dense sweep as a share of it (`share`)."""
    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    samples = list(load_file(tokens)["tokens"])
    with tempfile.TemporaryDirectory(prefix="secateur-bench-") as name:
        content, checkpoint = imported(model, Path(name))
        walk = SweepWorker(content, checkpoint, samples, dtype=torch.float32, device=torch.device("cpu"))
        walk.start()
        shares, alone_rates = [], []
        multiplied = cut = alone = 0.0
        for block in range(walk.num_blocks):
            walk.load(block)
            linears = [walk.work.weight(name) for group in walk.work.groups for name in group]
            products = _seconds(lambda: _multiply(linears, samples))  # noqa: B023 - called at once
            if block == 0:
                with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
                    walk.advance()  # MATH, because the counter does not know the CPU's fused attention
                multiplied = counter.get_total_flops() / 2
                with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
                    walk.measure(advance=False, needs=Wanda().needs)
                cut = counter.get_total_flops() / 2
                with FlopCounterMode(display=False) as counter:
                    _multiply(linears, samples)
                alone = counter.get_total_flops() / 2
                continue
            run = _seconds(walk.advance)
            alone_rates.append(alone / products)
            shares.append(multiplied / run / alone_rates[-1])
    found = {"whole": multiplied / len(samples), "cut": cut / len(samples)}
    found |= {"rate": statistics.median(alone_rates), "share": statistics.median(shares)}
    print(json.dumps(found))


def _multiply(linears: list[torch.Tensor], samples: list[torch.Tensor]) -> None:
    for tokens in samples:
        for weight_OI in linears:
            x_TI = torch.ones(len(tokens), weight_OI.shape[1])
            torch.mm(x_TI, weight_OI.float().t())


def _seconds(work: Any) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    forwards(Path(sys.argv[1]), Path(sys.argv[2]), threads=int(sys.argv[3]))
