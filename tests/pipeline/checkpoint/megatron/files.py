"""Files of converted checkpoints: read, changed, and compared."""

from argparse import Namespace
from pathlib import Path
from typing import Any

import torch

from tests.pipeline.checkpoint.megatron.made import tensors


def settings(path: Path) -> dict[str, Any]:
    """A file of torch.save that names nothing but Namespace."""
    with torch.serialization.safe_globals([Namespace]):
        loaded: dict[str, Any] = torch.load(path, weights_only=True)
        return loaded


def change_args(directory: Path, **changes: object) -> None:
    """Other args in the files of every rank."""
    for path in directory.glob("release/*/*.pt"):
        stored = settings(path)
        vars(stored["args"]).update(changes)
        torch.save(stored, path)


def assert_same(found: Path, wanted: Path) -> None:
    """Every tensor to the bit, and no other."""
    one, other = tensors(found), tensors(wanted)
    assert one.keys() == other.keys()
    for name, tensor in other.items():
        assert one[name].dtype == tensor.dtype
        assert torch.equal(one[name], tensor), name
