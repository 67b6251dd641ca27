"""The peak resident memory of this process, read from the kernel: psutil gives no peak on Linux."""

import ctypes
from pathlib import Path

STATUS = Path("/proc/self/status")
CLEAR_REFS = Path("/proc/self/clear_refs")


def reset_peak_memory() -> None:
    """Restart the peak at the memory that is resident now: Ray may reuse a process that has worked before."""
    try:
        CLEAR_REFS.write_text("5")
    except OSError:
        return  # not Linux, or not permitted: the peak is then that of the process's whole life


def peak_memory_bytes() -> int:
    """The highest resident set size since the last reset, in bytes."""
    for line in STATUS.read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{STATUS} has no VmHWM line")


def give_back() -> None:
    """Return freed heap pages to the kernel: glibc would keep them, and each block would add some."""
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):
        return  # another C library has no malloc_trim
