"""Writes `mp_rank_XX`, one file of torch.save for each rank, without ever holding a rank's model in memory.

Each file is created with space for its tensors but without their values. It is then memory-mapped, and the
tensors are written to their positions, one parameter after another.
"""

import mmap
from pathlib import Path
from typing import cast

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from pipeline.checkpoint.megatron.mapping import share
from pipeline.checkpoint.megatron.mp_rank import FILE
from pipeline.checkpoint.megatron.pickles import load_settings
from pipeline.checkpoint.megatron.whole import Implementation, WholeParameters


def write_mp_rank(
    whole: WholeParameters, directory: Path, *, ranks: int, implementation: Implementation
) -> None:
    """Writes the files of `ranks` ranks into `directory`. Memory holds one parameter, and pages that the
    system may write out at any time."""
    beside = whole.beside(layout="torch", implementation=implementation)
    paths = [directory / f"mp_rank_{rank:02d}" / FILE for rank in range(ranks)]
    for path in paths:
        path.parent.mkdir()
        _make_room(whole, path, beside=beside, ranks=ranks, implementation=implementation)
    with torch.serialization.set_default_mmap_options(mmap.MAP_SHARED):
        models = [cast(dict[str, Tensor], load_settings(path)["model"]) for path in paths]
    for parameter in whole.parameters:
        name = parameter.local_name if implementation == "local" else parameter.name
        tensor = whole.tensor(parameter)
        for rank, model in enumerate(models):
            model[name].copy_(share(parameter.row, tensor, rank=rank, ranks=ranks))


def _make_room(
    whole: WholeParameters,
    path: Path,
    *,
    beside: dict[str, object],
    ranks: int,
    implementation: Implementation,
) -> None:
    model = {}
    with FakeTensorMode():
        for parameter in whole.parameters:
            facts, split = whole.facts[parameter], parameter.row.split
            shape = [n // ranks if place == split else n for place, n in enumerate(facts.shape)]
            name = parameter.local_name if implementation == "local" else parameter.name
            model[name] = torch.empty(shape, dtype=facts.dtype)
    with torch.serialization.skip_data(materialize_fake_tensors=True):
        torch.save({"model": model, **beside}, path)
