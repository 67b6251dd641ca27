"""Tiny models for targets: what is changed of a kind, and how it is opened."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from pipeline.artifacts.serving import TargetCheck
from pipeline.spec.targets import TargetKind
from tests.models import tiny_checkpoint
from workers.targets.agreement import check_target
from workers.targets.consumer import Opening
from workers.targets.opened import Answer
from workers.targets.reference import judged
from workers.targets.writing import write_export


def made_model(directory: Path, kind: str = "llama", *, dtype: str = "float32", **fields: Any) -> Path:
    """A tiny checkpoint with its tokenizer, whose config has other fields."""
    tiny_checkpoint(kind, directory, dtype=dtype)
    if fields:
        config = AutoConfig.from_pretrained(directory)
        for name, value in fields.items():
            setattr(config, name, value)
        torch.manual_seed(1)
        AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype)).save_pretrained(directory)
    return directory


def opening_of(target: TargetKind, model: Path, exported: Path | None) -> Opening:
    """How a test opens a model."""
    return Opening(
        kind=target,
        directory=str(model),
        exported=None if exported is None else str(exported),
        threads=1,
        length=64,
        exact=True,
    )


def exported(target: TargetKind, model: Path) -> Path:
    """The files of a target, beside the model."""
    out = model.with_name(f"{model.name}-{target}")
    out.mkdir()
    write_export(target, model, out)
    return out


def checked(target: TargetKind, model: Path) -> TargetCheck:
    """Export a model and open it in a fresh process."""
    return compared(target, model, exported(target, model))


def compared(target: TargetKind, model: Path, files: Path | None) -> TargetCheck:
    """Open a model in a fresh process, and compare with transformers in this one, which has it already."""
    return check_target(opening_of(target, model, files), target, judge=_here)


def _here(opening: Opening, asked: Mapping[str, object]) -> Answer:
    crossed = json.loads(json.dumps({"opening": asdict(opening), **asked}))
    answer: Answer = judged(crossed)
    return answer


def with_config(model: Path, **fields: Any) -> Path:
    """Change config.json alone, so that the model computes something else."""
    config = json.loads((model / "config.json").read_bytes())
    (model / "config.json").write_text(json.dumps(config | fields))
    return model
