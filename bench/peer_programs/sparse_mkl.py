"""MKL's sparse products through sparse-dot-mkl."""

import os
import sys
from pathlib import Path

import numpy as np
import scipy.sparse
from sparse_cells import run

# The package looks for this library in the system only, and pip puts it into the environment.
os.environ.setdefault("MKL_RT", str(next(Path(sys.prefix, "lib").glob("libmkl_rt.so*"))))

from sparse_dot_mkl import dot_product_mkl


def product_of(weight, x):
    """CSR times dense: [rows, columns] times [columns, batch]."""
    rows = scipy.sparse.csr_matrix(weight)
    given = np.ascontiguousarray(x.T) if len(x) > 1 else np.ascontiguousarray(x[0])
    return lambda: dot_product_mkl(rows, given).T


if __name__ == "__main__":
    run({"mkl": product_of})
