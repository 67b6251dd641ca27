"""`mp_rank_XX`: Megatron's older layout, a file of torch.save for each rank (`--ckpt-format torch`)."""

import re
from argparse import Namespace
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import cast

from torch import Tensor

from pipeline.checkpoint.megatron.mapping import BLOCKS, ROWS, Row, merged
from pipeline.checkpoint.megatron.pickles import Stored, load_settings
from pipeline.checkpoint.megatron.weights import Facts
from pipeline.errors import IncompleteCheckpoint, UnsupportedCheckpoint

FILE = "model_optim_rng.pt"
RANK = re.compile(r"mp_rank_(\d+)((?:_\d+)*)")


class MpRank:
    """A checkpoint of this layout, by the names of mapping.py with the number of the block. Files are mapped:
    what is in memory is what was asked for."""

    def __init__(self, directory: Path) -> None:
        self._ranks = [_model(load_settings(path)) for path in _files(directory)]
        self._directory = directory

    @cached_property
    def settings(self) -> Stored:
        """What lies beside the tensors: `args` and the iteration. Raises UnsupportedCheckpoint when the ranks
        are not as many as the args say."""
        first = load_settings(_files(self._directory)[0])
        args = first.get("args")
        said = getattr(args, "tensor_model_parallel_size", None) if isinstance(args, Namespace) else None
        if said is not None and said != len(self._ranks):
            raise IncompleteCheckpoint(
                f"{self._directory} has {len(self._ranks)} ranks, its args say tensor_model_parallel_size={said}"
            )
        return {name: value for name, value in first.items() if name in ("args", "iteration")}

    @cached_property
    def facts(self) -> Mapping[str, Facts]:
        """Type and shape of each whole parameter."""
        found = {}
        for name, stored in self._names.items():
            tensor, split = self._ranks[0][stored], _split(name)
            shape = list(tensor.shape)
            if split is not None:
                shape[split] *= len(self._ranks)
            found[name] = Facts(tensor.dtype, tuple(shape))
        return found

    def tensor(self, name: str) -> Tensor:
        """One whole parameter. Raises IncompleteCheckpoint where a rank lacks it."""
        stored = self._names[name]
        shares = [rank[stored] for rank in self._ranks if stored in rank]
        if len(shares) != len(self._ranks):
            raise IncompleteCheckpoint(f"{self._directory}: a rank lacks {stored}")
        row = _row(name)
        return shares[0] if row is None else merged(row, shares)

    @cached_property
    def _names(self) -> dict[str, str]:
        """Name in mapping.py → stored name."""
        names = {}
        for stored in self._ranks[0]:
            row = _row(stored)
            inner = _inner(stored)
            names[stored if row is None else stored.removesuffix(inner) + row.name] = stored
        return names


def _files(directory: Path) -> list[Path]:
    found = {one.name: RANK.fullmatch(one.name) for one in directory.iterdir() if one.is_dir()}
    matches = {name: match for name, match in found.items() if match is not None}
    beyond = [name for name, match in matches.items() if match[2]]
    if beyond:
        raise UnsupportedCheckpoint(
            f"{directory} is split by pipeline or expert ranks ({min(beyond)}); save it with "
            "--pipeline-model-parallel-size 1, or as torch_dist"
        )
    ranks = sorted(int(match[1]) for match in matches.values())
    if ranks != list(range(len(ranks))):
        raise IncompleteCheckpoint(f"{directory} has ranks {ranks}; those between are missing")
    files = [directory / name / FILE for name in sorted(matches)]
    missing = [str(file) for file in files if not file.is_file()]
    if missing:
        raise IncompleteCheckpoint(f"{missing[0]} does not exist")
    return files


def _model(stored: Stored) -> dict[str, Tensor]:
    """The model's tensors, without what Transformer Engine keeps beside them."""
    model = stored.get("model")
    if not isinstance(model, dict):
        raise UnsupportedCheckpoint(
            f"{FILE} has no `model`, but {', '.join(map(str, stored))}; virtual pipeline ranks (model0, model1) "
            "and versions before Megatron-core are not read"
        )
    tensors = {str(name).removeprefix("module."): one for name, one in model.items() if isinstance(one, Tensor)}
    return cast(dict[str, Tensor], {n: one for n, one in tensors.items() if not n.endswith("_extra_state")})


def _inner(name: str) -> str:
    """A parameter's name inside its block, or in the model outside of them."""
    match = re.match(rf"{re.escape(BLOCKS)}\d+\.", name)
    return name if match is None else name[match.end() :]


def _row(name: str) -> Row | None:
    return ROWS.get(_inner(name))


def _split(name: str) -> int | None:
    row = _row(name)
    return None if row is None else row.split
