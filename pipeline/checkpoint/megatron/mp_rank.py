"""`mp_rank_XX`: Megatron's older layout, one file of torch.save for each rank (`--ckpt-format torch`).

With pipeline parallelism it is `mp_rank_XX_YYY`, and every stage YYY counts its blocks from 0.
"""

import re
from argparse import Namespace
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path

from torch import Tensor

from pipeline.checkpoint.megatron.mapping import BLOCKS, ROWS, Row, merged
from pipeline.checkpoint.megatron.pickles import Stored, load_settings
from pipeline.checkpoint.megatron.weights import Facts
from pipeline.errors import IncompleteCheckpoint, UnsupportedCheckpoint

FILE = "model_optim_rng.pt"
RANK = re.compile(r"mp_rank_(\d+)(?:_(\d+))?(_\d+)?")
IN_BLOCK = re.compile(rf"{re.escape(BLOCKS)}(\d+)\.")

Shares = tuple[Tensor, ...]  # the shares of one parameter, by rank


class MpRank:
    """A checkpoint in this layout, by the names of mapping.py with the number of the block. Files are
    memory-mapped, so that only requested tensors are in memory. Raises IncompleteCheckpoint where files or
    tensors of a rank are missing, UnsupportedCheckpoint for parameters that are split among experts or by
    virtual stages."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        stages = [[load_settings(path) for path in stage] for stage in _files(directory)]
        self.settings: Mapping[str, object] = {
            name: value for name, value in stages[0][0].items() if name in ("args", "iteration")
        }
        self._check_ranks(len(stages[0]))
        self._shares: dict[str, Shares] = {}
        first = 0  # the first block of the stage
        for stage in stages:
            models = [_model(rank, directory) for rank in stage]
            self._shares |= dict(self._named(models, first=first))
            first += len({match[1] for name in models[0] if (match := IN_BLOCK.match(name))})

    @cached_property
    def facts(self) -> Mapping[str, Facts]:
        """The type and shape of each whole parameter."""
        found = {}
        for name, shares in self._shares.items():
            row, shape = _row(name), list(shares[0].shape)
            if row is not None and row.split is not None:
                shape[row.split] = sum(share.shape[row.split] for share in shares)
            found[name] = Facts(shares[0].dtype, tuple(shape))
        return found

    def tensor(self, name: str) -> Tensor:
        """Returns one whole parameter."""
        row = _row(name)
        return self._shares[name][0] if row is None else merged(row, self._shares[name])

    def _named(self, models: list[dict[str, Tensor]], *, first: int) -> Iterator[tuple[str, Shares]]:
        """Yields the shares of a stage's parameters, by the names of mapping.py."""
        for stored in models[0]:
            lacking = [rank for rank, model in enumerate(models) if stored not in model]
            if lacking:
                raise IncompleteCheckpoint(f"{self._directory}: rank {lacking[0]} lacks {stored}")
            match, row = IN_BLOCK.match(stored), _row(stored)
            inner = stored if match is None else stored[match.end() :]
            own = inner if row is None else row.name
            yield (
                own if match is None else f"{BLOCKS}{first + int(match[1])}.{own}",
                tuple(m[stored] for m in models),
            )

    def _check_ranks(self, ranks: int) -> None:
        args = self.settings.get("args")
        said = getattr(args, "tensor_model_parallel_size", None) if isinstance(args, Namespace) else None
        if said is not None and said != ranks:
            raise IncompleteCheckpoint(
                f"{self._directory} has {ranks} tensor-parallel ranks, its args say "
                f"tensor_model_parallel_size={said}; put the missing directories beside them"
            )


def _files(directory: Path) -> list[list[Path]]:
    """Returns the files by pipeline stage and tensor-parallel rank."""
    matches = [match for one in directory.iterdir() if (match := RANK.fullmatch(one.name)) and one.is_dir()]
    by_expert = sorted(match[0] for match in matches if match[3])
    if by_expert:
        raise UnsupportedCheckpoint(
            f"{directory / by_expert[0]} is split among experts; save it as torch_dist"
        )
    found = {(int(match[2] or 0), int(match[1])): directory / match[0] / FILE for match in matches}
    stages, ranks = (1 + max(place[axis] for place in found) for axis in (0, 1))
    for stage in range(stages):
        for rank in range(ranks):
            path = found.get((stage, rank))
            if path is None or not path.is_file():
                raise IncompleteCheckpoint(
                    f"{directory} has no {FILE} for tensor rank {rank}, pipeline stage {stage}"
                )
    return [[found[stage, rank] for rank in range(ranks)] for stage in range(stages)]


def _model(stored: Stored, directory: Path) -> dict[str, Tensor]:
    """Returns the model's tensors, without the extra state that Transformer Engine stores beside them."""
    model = stored.get("model")
    if not isinstance(model, dict):
        raise UnsupportedCheckpoint(
            f"{directory}: {FILE} has no `model`, but {', '.join(map(str, stored))}; virtual pipeline stages "
            "(model0, model1) are not read: save it as torch_dist"
        )
    named = {str(name).removeprefix("module."): one for name, one in model.items()}
    return {
        name: one
        for name, one in named.items()
        if isinstance(one, Tensor) and not name.endswith("_extra_state")
    }


def _row(name: str) -> Row | None:
    match = IN_BLOCK.match(name)
    return ROWS.get(name if match is None else name[match.end() :])
