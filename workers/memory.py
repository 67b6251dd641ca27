"""Peak resident memory of this process, from the kernel: psutil knows no peak on Linux, and none to reset."""

import ctypes
from pathlib import Path

STATUS = Path("/proc/self/status")
CLEAR_REFS = Path("/proc/self/clear_refs")


def reset_peak_memory() -> None:
    """Start again from what is resident now: Ray may give us a process that has worked before."""
    try:
        CLEAR_REFS.write_text("5")
    except OSError:
        return  # not Linux, or not permitted: the peak is then the process's whole life


def peak_memory_bytes() -> int:
    """Highest resident set size since the last reset."""
    for line in STATUS.read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{STATUS} has no VmHWM line")


def give_back() -> None:
    """Hand freed heap pages back to the kernel; glibc would keep them, and a block's worth adds up."""
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):
        return  # another C library: it keeps what it keeps
