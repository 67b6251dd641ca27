"""DeepSparse 1.8.0, whose licence allows evaluation only."""

import os
import tempfile

import deepsparse
import onnx
from sparse_cells import run
from sparse_onnx import written


def product_of(weight, x):
    """An engine of one product."""
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "product.onnx")
        onnx.save(written(weight, len(x)), path)
        engine = deepsparse.Engine(path, batch_size=len(x), num_cores=int(os.environ["OMP_NUM_THREADS"]))
    return lambda: engine.run([x])[0]


if __name__ == "__main__":
    run({"deepsparse": product_of})
