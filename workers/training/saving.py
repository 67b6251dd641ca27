"""Training checkpoints: every worker writes its own fragments, and any number of workers can read them.

<directory>/state.json                   TrainingState, written by rank 0
<directory>/rank-00000.safetensors       `<part>|<parameter>|<start>` → float32 [length]
<directory>/keep.safetensors             packed keep tensors, where training moves zeros; by rank 0
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.artifacts.certificate import Check
from pipeline.artifacts.curve import Curve
from pipeline.canonical import Frozen
from pipeline.errors import CorruptObject
from pipeline.tensor.packing import unpack_keep
from workers.training import ranks
from workers.training.engine import MASTER, Engine
from workers.training.guard import Guard
from workers.training.stored import Stored

STATE_JSON = "state.json"
KEEP = "keep.safetensors"


class Best(Frozen):
    """The weights of the best validation so far."""

    loss: float
    stored: Stored


class TrainingState(Frozen):
    """The state of a training after `step` steps, without weights and moments. `workers`: how many saved."""

    step: int
    workers: int
    curve: Curve
    checks: tuple[Check, ...] = ()
    scaler: dict[str, float] = Field(default_factory=dict)
    best: Best | None = None
    stale: int = 0  # validations since the best


def save(directory: Path, engine: Engine, state: TrainingState, guard: Guard | None = None) -> None:
    """Write this worker's part. `guard`: given where training moves zeros."""
    held = {
        f"{part}|{fragment.name}|{fragment.start}": values.detach().cpu().contiguous().clone()
        for fragment in engine.fragments()
        for part, values in fragment.parts.items()
    }
    save_file(held, directory / f"rank-{ranks.rank():05d}.safetensors")
    keeps: dict[str, Tensor] = {}
    for name, keep in (guard.keeps if guard is not None else {}).items():
        packed = keep.packed()  # from all workers
        if ranks.rank() == 0:
            keeps[name] = packed.cpu().clone()
    if ranks.rank() == 0:
        if guard is not None:
            save_file(keeps, directory / KEEP)
        (directory / STATE_JSON).write_text(state.model_dump_json())


def load_state(directory: Path) -> TrainingState:
    """Read the state that `save` wrote. Raises CorruptObject when a worker's part is missing."""
    state = TrainingState.model_validate_json((directory / STATE_JSON).read_text())
    missing = [rank for rank in range(state.workers) if not _part(directory, rank).is_file()]
    if missing:
        raise CorruptObject(
            f"the training checkpoint of step {state.step} lacks the parts of workers {missing}"
        )
    return state


def load_keeps(directory: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor] | None:
    """Read the keep tensors that were saved. Returns None where training does not move zeros."""
    if not (directory / KEEP).is_file():
        return None
    return {name: unpack_keep(packed, shapes[name]) for name, packed in load_file(directory / KEEP).items()}


def load_weights(directory: Path, engine: Engine, state: TrainingState) -> None:
    """Fill the engine's master weights, moments and working weights."""
    engine.create_moments(sum(not record.skipped for record in state.curve.steps))
    with _Pieces(directory, state.workers) as pieces:
        for name, shape in engine.shapes.items():
            engine.load_working(name, pieces.read(MASTER, name, 0, torch.Size(shape).numel()).view(shape))
        for fragment in engine.fragments():
            for part, values in fragment.parts.items():
                values.copy_(pieces.read(part, fragment.name, fragment.start, fragment.length))


class _Pieces:
    """The files of all workers, opened. A piece is read only when it is asked for."""

    def __init__(self, directory: Path, workers: int) -> None:
        self._files = [safe_open(_part(directory, rank), framework="pt") for rank in range(workers)]
        self._found: dict[tuple[str, str], list[tuple[int, int, Any]]] = {}

    def __enter__(self) -> "_Pieces":
        for opened in self._files:
            file = opened.__enter__()
            for key in file.keys():  # noqa: SIM118 - the opened file is no dict
                part, name, start = key.split("|")
                piece = file.get_slice(key)
                length = piece.get_shape()[0]
                self._found.setdefault((part, name), []).append((int(start), length, piece))
        return self

    def __exit__(self, *error: object) -> None:
        for file in self._files:
            file.__exit__(None, None, None)

    def read(self, part: str, name: str, start: int, length: int) -> Tensor:
        """Read elements of a flattened parameter, from whichever workers wrote them. Raises CorruptObject
        when some are missing."""
        values = torch.empty(length, dtype=torch.float32)
        filled = 0
        for first, count, piece in self._found.get((part, name), []):
            low, high = max(first, start), min(first + count, start + length)
            if low < high:
                values[low - start : high - start] = piece[low - first : high - first]
                filled += high - low
        if filled != length:
            raise CorruptObject(
                f"the training checkpoint has {filled} of {length} elements of {part} of {name}; delete it, "
                f"and training starts again"
            )
        return values


def _part(directory: Path, rank: int) -> Path:
    return directory / f"rank-{rank:05d}.safetensors"
