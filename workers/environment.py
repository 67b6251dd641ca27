"""The versions and the hardware of this process, for reports and side files."""

import os
import platform
from importlib.metadata import version
from pathlib import Path

import torch

from pipeline.artifacts.environment import Environment

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
TRAINING_PACKAGES = ("deepspeed", "peft")


def versions(*, training: bool = False) -> dict[str, str]:
    """The installed version of each package, and of Python. `training` adds the packages that only training
    uses."""
    packages = (*PACKAGES, *TRAINING_PACKAGES) if training else PACKAGES
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def environment(*, threads: int, training: bool = False) -> Environment:
    """The environment on this machine. `threads`: those of each worker."""
    return Environment(
        versions=versions(training=training),
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
