"""The code, the versions and the hardware of this process, for reports, side files and provenance."""

import os
import platform
import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path

import torch

from pipeline.artifacts.environment import Code, Environment
from pipeline.canonical import digest_of, sha256_hex

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
OWN_PACKAGES = ("pipeline", "workers", "secateur", "api")
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


@cache
def code() -> Code:
    """The code of this process."""
    home = Path(__file__).resolve().parents[1]
    files = [
        path
        for package in OWN_PACKAGES
        for path in (home / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    ]
    digests = {path.relative_to(home).as_posix(): sha256_hex(path.read_bytes()) for path in files}
    return Code(version=version("secateur"), sha256=digest_of(digests), commit=_commit(home))


def _commit(home: Path) -> str | None:
    """The commit of the checkout whose root is `home`; None outside of one, or without git."""
    if not (home / ".git").exists():
        return None
    try:
        command = ["git", "-C", str(home), "rev-parse", "HEAD"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
