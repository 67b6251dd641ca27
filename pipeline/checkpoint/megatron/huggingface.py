"""A Hugging Face directory, read and written a block at a time."""

import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import torch
from pydantic import JsonValue
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pipeline.checkpoint.compare import compare
from pipeline.checkpoint.config_json import TIED, written
from pipeline.checkpoint.header import read_local_headers
from pipeline.checkpoint.layout import CONFIG_JSON, PICKLE_ENDINGS, WEIGHTS, WEIGHTS_INDEX_JSON
from pipeline.checkpoint.megatron.parameters import HERE, check_names, parameters_of
from pipeline.checkpoint.megatron.weights import Facts, Weights
from pipeline.checkpoint.reader import DTYPES
from pipeline.checkpoint.ties import untied_remark
from pipeline.errors import IncompleteCheckpoint, UnsupportedCheckpoint

BASE = "model."  # checkpoints saved from the base model lack this prefix


class HuggingFaceDirectory:
    """The weights of a directory that save_pretrained wrote. Raises UnsupportedCheckpoint for weights other
    than safetensors, and for parameters other than those that config.json requires."""

    def __init__(self, directory: Path, *, config: Mapping[str, JsonValue]) -> None:
        self._directory = directory
        self._config = config
        parameters_of(config)  # raises for types and settings that Megatron does not have
        files = self._files()
        compared = compare(config, read_local_headers(files.values()), where=str(directory))
        self.remarks = compared.remarks
        self._stored = {
            _named(stored): (path, stored) for stored, path in files.items() if stored not in compared.ignored
        }
        self._settle(compared.same)
        wanted = {name for parameter in parameters_of(self._config) for name in parameter.parts}
        check_names(self._stored, wanted, where=directory)

    @property
    def config(self) -> Mapping[str, JsonValue]:
        """The content of config.json, which says as transformers loads the weights whether they are tied."""
        return self._config

    @cached_property
    def facts(self) -> Mapping[str, Facts]:
        """The type and shape of every parameter; a tied head is not among them."""
        found = {}
        for path in sorted({path for path, _ in self._stored.values()}):
            with safe_open(path, framework="pt") as file:
                for name, (own, stored) in self._stored.items():
                    if own == path:
                        piece = file.get_slice(stored)
                        found[name] = Facts(DTYPES[piece.get_dtype()], tuple(piece.get_shape()))
        return found

    def tensor(self, name: str) -> Tensor:
        """Returns one parameter."""
        path, stored = self._stored[name]
        with safe_open(path, framework="pt") as file:
            tensor: Tensor = file.get_tensor(stored)
            return tensor

    def _settle(self, same: Sequence[Sequence[str]]) -> None:
        """Drops a stored copy of a tied tensor. If it is no copy, the model has both."""
        for first, *others in same:
            for other in others:
                kept = self.tensor(_named(first))
                if torch.equal(kept, self.tensor(_named(other)).to(kept.dtype)):
                    del self._stored[_named(other)]
                else:
                    self._config = {**self._config, TIED: False}
                    self.remarks += (untied_remark(first, other),)

    def _files(self) -> dict[str, Path]:
        """Maps every stored tensor to its file."""
        index = self._directory / WEIGHTS_INDEX_JSON
        paths = {self._directory / WEIGHTS}
        if not (self._directory / WEIGHTS).exists():
            if not index.exists():
                pickled = [one.name for one in self._directory.iterdir() if one.name.endswith(PICKLE_ENDINGS)]
                raise UnsupportedCheckpoint(
                    f"{self._directory} has no {WEIGHTS} and no {WEIGHTS_INDEX_JSON}"
                    + (
                        f"; pickle weights ({pickled[0]}) are not read, save it as safetensors"
                        if pickled
                        else ""
                    )
                )
            paths = {
                self._directory / Path(one).name
                for one in json.loads(index.read_text())["weight_map"].values()
            }
        found: dict[str, Path] = {}
        for path in sorted(paths):
            try:
                with safe_open(path, framework="pt") as file:
                    found |= dict.fromkeys(file.keys(), path)
            except (SafetensorError, FileNotFoundError) as error:
                raise IncompleteCheckpoint(f"{path} is no whole safetensors file: {error}") from error
        return found


def write_huggingface(weights: Weights, directory: Path) -> None:
    """Writes a shard for the tensors outside of the blocks and one for each block, their index and
    config.json. Memory holds one shard."""
    shards: dict[int, list[str]] = {}
    for name in weights.facts:
        match = re.match(rf"{re.escape(HERE)}(\d+)\.", name)
        shards.setdefault(0 if match is None else int(match[1]) + 1, []).append(name)
    weight_map: dict[str, str] = {}
    total = 0
    for shard, names in sorted(shards.items()):
        file = f"model-{shard + 1:05d}-of-{len(shards):05d}.safetensors"
        tensors = {name: weights.tensor(name) for name in names}
        total += sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        save_file(tensors, directory / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(names, file)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (directory / WEIGHTS_INDEX_JSON).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    write_config(weights.config, directory)


def write_config(config: Mapping[str, JsonValue], directory: Path) -> None:
    """Writes config.json."""
    (directory / CONFIG_JSON).write_bytes(written(config))


def _named(stored: str) -> str:
    return stored if stored.startswith((BASE, "lm_head.")) else f"{BASE}{stored}"
