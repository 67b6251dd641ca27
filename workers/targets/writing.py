"""Writes a checkpoint in the form that a target reads."""

import importlib
from pathlib import Path

from pipeline.spec.targets import TargetKind
from workers.targets.child import MODULES


def write_export(target: TargetKind, directory: Path, out: Path) -> None:
    """Write a Hugging Face directory into `out`, which is empty, with the target's own libraries."""
    importlib.import_module(f"workers.targets.{MODULES[target]}").export(directory, out)
