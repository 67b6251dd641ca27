"""The native library as Python calls it."""

import ctypes
import functools
import re
import threading
from ctypes import POINTER, c_int, c_int64, c_void_p
from pathlib import Path

import torch
from torch import Tensor

from secateur.sparse.building import NotBuilt, built

SETS = ("plain", "neon", "avx2", "avx512")
"""The instruction sets, by their number in native/abi.h. Later ones are faster."""
WAYS = ("few", "many")
_KINDS = {torch.float32: 0, torch.bfloat16: 1, torch.int8: 2}
_OPENMP = re.compile(r"/lib(gomp|omp|iomp5)[^/]*\.so[^/]*$")
_TOO_SHORT = 3
_LOCK = threading.Lock()


class _Weight(ctypes.Structure):
    """SecateurWeight of native/abi.h."""

    _fields_ = (
        ("bits", c_void_p),
        ("values", c_void_p),
        ("scales", c_void_p),
        ("starts", c_void_p),
        ("codes", c_void_p),
        ("rows", c_int64),
        ("columns", c_int64),
        ("group", c_int64),
        ("kind", c_int64),
        ("count", c_int64),
    )


class Native:
    """An opened library. `sets` are the instruction sets that this CPU runs, the fastest last."""

    def __init__(self, path: Path) -> None:
        library = ctypes.CDLL(str(path))
        self._product = library.secateur_product
        self._product.argtypes = (
            POINTER(_Weight),
            c_void_p,
            c_int64,
            c_void_p,
            c_int64,
            c_int64,
            c_int64,
        )
        self._product.restype = c_int
        library.secateur_has.argtypes = (c_int64,)
        self.sets = tuple(name for number, name in enumerate(SETS) if library.secateur_has(number))
        self.chosen = self.sets[-1]

    def product(
        self,
        x: Tensor,
        values: Tensor,
        *,
        rows: int,
        bits: Tensor | None,
        starts: Tensor | None,
        scales: Tensor | None,
        group: int,
        way: str,
        codes: Tensor | None = None,
    ) -> Tensor:
        """float32 [T, rows] of x float32 [T, C], by the kernels for "few" or "many" tokens of the chosen set.
        Without bits the values are a dense weight. `codes`: those of Pairs. All tensors are contiguous, and
        `values` has 64 elements more than its rows need."""
        made = torch.empty(x.shape[0], rows)
        weight = _Weight(
            bits.data_ptr() if bits is not None else None,
            values.data_ptr(),
            scales.data_ptr() if scales is not None else None,
            starts.data_ptr() if starts is not None else None,
            codes.data_ptr() if codes is not None else None,
            rows,
            x.shape[1],
            group,
            _KINDS[values.dtype],
            values.shape[0],
        )
        failed = self._product(
            weight,
            x.data_ptr(),
            x.shape[0],
            made.data_ptr(),
            WAYS.index(way),
            SETS.index(self.chosen),
            torch.get_num_threads(),
        )
        if failed == _TOO_SHORT:
            raise ValueError(f"{values.shape[0]} values are too few: 64 elements must follow the last one")
        if failed:
            raise MemoryError("there is no memory for the inputs of a sparse product")
        return made


def native() -> Native:
    """The library, built and opened at the first call. Raises NotBuilt where that cannot be done."""
    with _LOCK:
        found = _opened()
    if isinstance(found, NotBuilt):
        raise found
    return found


@functools.cache
def _opened() -> Native | NotBuilt:
    try:
        openmp = _loaded_openmp()
        path = built(linked_openmp=openmp is None)
        if openmp is not None:
            ctypes.CDLL(openmp, mode=ctypes.RTLD_GLOBAL)
        return Native(path)
    except NotBuilt as error:
        return error
    except OSError as error:
        return NotBuilt(f"the library cannot be opened: {error}")


def _loaded_openmp() -> str | None:
    """The OpenMP that torch has loaded. A second one would have threads of its own, and the threads of the
    two would wait for each other's cores."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return None
    paths = {line.split(maxsplit=5)[-1] for line in maps.read_text().splitlines() if ".so" in line}
    inside = sorted(path for path in paths if _OPENMP.search(path))
    return next((path for path in inside if "/torch/" in path), inside[0] if inside else None)
