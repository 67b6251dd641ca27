"""Our sparse kernels, dense kernels of the same make, torch and onnxruntime, on two threads."""

import numpy as np
import onnxruntime
import torch
from sparse_cells import run
from sparse_onnx import written

from secateur.sparse import SparseLinear, pack
from secateur.sparse.dense import DenseLinear

TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}


def sparse(dtype):
    """A maker of our sparse products."""

    def maker(weight, x):
        linear = SparseLinear.of(pack(torch.from_numpy(weight), values=dtype))
        given = torch.from_numpy(x)
        return lambda: linear(given)

    return maker


def dense(dtype):
    """A maker of dense products of the same make."""

    def maker(weight, x):
        linear = DenseLinear.of(torch.from_numpy(weight), values=dtype)
        given = torch.from_numpy(x)
        return lambda: linear(given)

    return maker


def torch_product(weight, x):
    """torch's dense product in float32."""
    dense_weight, given = torch.from_numpy(weight), torch.from_numpy(x)
    return lambda: torch.nn.functional.linear(given, dense_weight)


def onnxruntime_product(weight, x):
    """A graph with one MatMul."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    model = written(weight, len(x)).SerializeToString()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    given = {"x": np.ascontiguousarray(x)}
    return lambda: session.run(None, given)[0]


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    run(
        {
            "torch_fp32": torch_product,
            "onnxruntime": onnxruntime_product,
            **{f"dense_{name}": dense(dtype) for name, dtype in TYPES.items()},
            **{f"sparse_{name}": sparse(dtype) for name, dtype in TYPES.items()},
        }
    )
