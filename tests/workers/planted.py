"""Faults that are planted into a published directory: functions that change its files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

Plant = Callable[[Path], None]
Change = Callable[[dict[str, Tensor]], None]


def weights(file: str, change: Change) -> Plant:
    """Changes the tensors of a safetensors file."""

    def plant(directory: Path) -> None:
        tensors = load_file(directory / file)
        change(tensors)
        save_file(tensors, directory / file, metadata={"format": "pt"})

    return plant


def field(file: str, *path: str, to: Any) -> Plant:
    """Sets a field of a JSON file; `to` may be a function of what it was."""

    def plant(directory: Path) -> None:
        document = json.loads((directory / file).read_text())
        inner = document
        for part in path[:-1]:
            inner = inner[part]
        inner[path[-1]] = to(inner[path[-1]]) if callable(to) else to
        (directory / file).write_text(json.dumps(document))

    return plant


def without_field(file: str, name: str) -> Plant:
    """Takes a field out of a JSON file."""

    def plant(directory: Path) -> None:
        document = json.loads((directory / file).read_text())
        del document[name]
        (directory / file).write_text(json.dumps(document))

    return plant


def text(file: str, content: str) -> Plant:
    """Writes a file anew."""
    return lambda directory: (directory / file).write_text(content) and None


def gone(file: str) -> Plant:
    """Deletes a file."""
    return lambda directory: (directory / file).unlink()


def cut(file: str, share: float) -> Plant:
    """Keeps the beginning of a file."""

    def plant(directory: Path) -> None:
        data = (directory / file).read_bytes()
        (directory / file).write_bytes(data[: int(len(data) * share)])

    return plant


def flipped(file: str) -> Plant:
    """Flips a bit in the middle of a file's last tensor."""

    def plant(directory: Path) -> None:
        data = bytearray((directory / file).read_bytes())
        data[-100] ^= 1
        (directory / file).write_bytes(data)

    return plant


def swapped(one: str, other: str) -> Plant:
    """Exchanges two files."""

    def plant(directory: Path) -> None:
        first, second = (directory / one).read_bytes(), (directory / other).read_bytes()
        (directory / one).write_bytes(second)
        (directory / other).write_bytes(first)

    return plant


def value(name: str, number: float, *, where: int = 0) -> Change:
    """Sets one value of a tensor; `where` counts in its flat form."""

    def change(tensors: dict[str, Tensor]) -> None:
        tensors[name].view(-1)[where] = number

    return change


def revived(name: str) -> Change:
    """Sets a weight that is zero to one half."""

    def change(tensors: dict[str, Tensor]) -> None:
        flat = tensors[name].view(-1)
        flat[int((flat == 0).nonzero()[0])] = 0.5

    return change


def renamed(name: str, to: str) -> Change:
    """Renames a tensor."""

    def change(tensors: dict[str, Tensor]) -> None:
        tensors[to] = tensors.pop(name)

    return change


def added(name: str, shape: tuple[int, ...]) -> Change:
    """Adds a tensor of ones."""

    def change(tensors: dict[str, Tensor]) -> None:
        tensors[name] = torch.ones(shape)

    return change


def removed(name: str) -> Change:
    """Takes a tensor out."""

    def change(tensors: dict[str, Tensor]) -> None:
        del tensors[name]

    return change


def turned_into(name: str, turn: Callable[[Tensor], Tensor]) -> Change:
    """Replaces a tensor by a function of it."""

    def change(tensors: dict[str, Tensor]) -> None:
        tensors[name] = turn(tensors[name]).contiguous()

    return change


def all_of(*plants: Plant) -> Plant:
    """Several faults at once."""

    def plant(directory: Path) -> None:
        for one in plants:
            one(directory)

    return plant
