"""The products that sparse_cpu.py measures, for programs in any environment: numpy is enough.

A cell is a weight [rows, columns] with a share of zeros, and a batch of tokens. A program gives a maker:
called with weight and x it returns a function that multiplies once, and its result [batch, rows].
"""

import argparse
import json
import sys
import time

import numpy as np

SHAPES = ((576, 1536), (2048, 5632), (4096, 11008))
SPARSITIES = (0.5, 0.7, 0.8, 0.9)
BATCHES = (1, 64, 256)
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
TOLERANCE = 0.05  # of the largest result: int8 and bfloat16 values differ by less


def weight_of(shape, sparsity):
    """float32 [rows, columns], the same in every program."""
    drawn = np.random.RandomState(shape[0])
    weight = drawn.standard_normal(shape).astype(np.float32)
    weight[drawn.random_sample(shape) < sparsity] = 0
    return weight


def x_of(shape, batch):
    """float32 [batch, columns]."""
    return np.random.RandomState(batch).standard_normal((batch, shape[1])).astype(np.float32)


def run(makers):
    """Print the seconds of one product as JSON, by the maker's name and by "rows x columns/sparsity/batch".
    `--sparsities`, `--seconds` and `--clock` come from sparse_cpu.py."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--sparsities", type=json.loads, default=list(SPARSITIES))
    parser.add_argument("--seconds", type=float, default=0.2)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    arguments = parser.parse_args()
    clock = CLOCKS[arguments.clock]
    found = {name: {} for name in makers}
    for shape in SHAPES:
        for sparsity in arguments.sparsities:
            weight = weight_of(shape, sparsity)
            for batch in BATCHES:
                x = x_of(shape, batch)
                expected = x @ weight.T
                cell = f"{shape[0]} x {shape[1]}/{sparsity}/{batch}"
                for name, maker in makers.items():
                    product = maker(weight, x)
                    off = np.abs(np.asarray(product()) - expected).max() / np.abs(expected).max()
                    if not off < TOLERANCE:
                        raise AssertionError(f"{name} is wrong in {cell} by {off}")
                    found[name][cell] = _seconds(product, arguments.seconds, clock)
                    print(f"{name} {cell}: {found[name][cell] * 1e6:.0f} us", file=sys.stderr, flush=True)
                    del product
    print(json.dumps(found))


def _seconds(product, least, clock):
    """The shortest of all calls within `least` seconds, but of five at least: whatever else the machine does
    only adds to them."""
    product()
    taken = []
    while sum(taken) < least or len(taken) < 5:
        started = clock()
        product()
        taken.append(clock() - started)
    return min(taken)
