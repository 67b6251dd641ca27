"""Where this process runs: versions and hardware, for reports and side files."""

import os
import platform
from importlib.metadata import version
from pathlib import Path

import torch

from pipeline.environment import Environment

PACKAGES = (
    "secateur",
    "torch",
    "transformers",
    "tokenizers",
    "ray",
    "datasets",
    "lm_eval",
    "safetensors",
    "numpy",
)


def versions() -> dict[str, str]:
    """Package → installed version, Python among them."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def environment(*, threads: int) -> Environment:
    """This machine; `threads` are those of each worker."""
    return Environment(
        versions=versions(),
        platform=platform.platform(),
        cpu_model=_cpu_model(),
        cores=os.cpu_count() or 1,
        threads=threads,
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        gpus=tuple(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())),
    )


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
