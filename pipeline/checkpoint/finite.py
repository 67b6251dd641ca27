"""Counts NaN and infinity in the bytes of a tensor, while they stream past."""

import numpy as np

# By type: the unsigned integer of its size, and the bits of the exponent. A number whose exponent is all ones
# is infinite if its fraction is zero, and NaN otherwise.
_LAYOUTS: dict[str, tuple[type[np.unsignedinteger], int]] = {
    "BF16": (np.uint16, 0x7F80),
    "F16": (np.uint16, 0x7C00),
    "F32": (np.uint32, 0x7F80_0000),
    "F64": (np.uint64, 0x7FF0_0000_0000_0000),
}
_AT_ONCE = 256 * 1024  # bytes, so that what is computed stays in the cache


class FiniteCount:
    """Takes a tensor's bytes in pieces of any size. `nan`, `infinite`: the numbers found so far. Types that
    are not floating point have none."""

    def __init__(self, dtype: str) -> None:
        self.nan = self.infinite = 0
        self._layout = _LAYOUTS.get(dtype)
        self._rest = b""  # the beginning of a number that is cut by the end of a piece

    def take(self, data: memoryview) -> None:
        """Looks at the next bytes."""
        if self._layout is None:
            return
        size = np.dtype(self._layout[0]).itemsize
        if self._rest:
            begun = self._rest + bytes(data[: size - len(self._rest)])
            data = data[size - len(self._rest) :]
            if len(begun) < size:
                self._rest = begun
                return
            self._count(memoryview(begun), *self._layout)
        whole = len(data) // size * size
        self._rest = bytes(data[whole:])
        for start in range(0, whole, _AT_ONCE):
            self._count(data[start : min(start + _AT_ONCE, whole)], *self._layout)

    def _count(self, data: memoryview, integer: type[np.unsignedinteger], exponent: int) -> None:
        without_sign = integer(np.iinfo(integer).max >> 1)
        bits = np.frombuffer(data, dtype=integer) & without_sign
        if bits.max(initial=0) < exponent:
            return
        self.nan += int((bits > exponent).sum())
        self.infinite += int((bits == exponent).sum())
