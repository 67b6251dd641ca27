"""Presents a Megatron checkpoint under Hugging Face's names."""

from argparse import Namespace
from collections.abc import Mapping
from functools import cached_property

from pydantic import JsonValue
from torch import Tensor

from pipeline.checkpoint.megatron.args import sizes_for_megatron
from pipeline.checkpoint.megatron.config import check_consistent, config_of
from pipeline.checkpoint.megatron.mapping import EMBEDDING, OUTPUT, part, shape_of, whole_shape
from pipeline.checkpoint.megatron.parameters import Parameter, check_names, parameters_of
from pipeline.checkpoint.megatron.weights import Facts, MegatronTensors
from pipeline.errors import UnsupportedCheckpoint
from pipeline.structure.sizes import Sizes


class MegatronWeights:
    """Weights by Hugging Face's names, cut from Megatron's parameters on request. Memory holds the parameter
    that was used last. `config`: a config.json beside the checkpoint, or one that the user named; if None, it
    is derived from the checkpoint's args. Raises UnsupportedCheckpoint where names or shapes differ from
    those that config.json requires."""

    def __init__(
        self, tensors: MegatronTensors, *, config: Mapping[str, JsonValue] | None, where: object
    ) -> None:
        args = tensors.settings.get("args")
        known = args if isinstance(args, Namespace) else None
        if EMBEDDING.name not in tensors.facts:
            raise UnsupportedCheckpoint(
                f"{where} has no {EMBEDDING.name}; it is no GPT model of Megatron-core"
            )
        if config is None:
            config = config_of(known, dtype=str(tensors.facts[EMBEDDING.name].dtype).removeprefix("torch."))
        check_consistent(known, config)
        self._tensors = tensors
        self._config = config
        self._places = {
            name: (parameter, number)
            for parameter in parameters_of(config)
            for number, name in enumerate(parameter.parts)
        }
        wanted = {parameter.name: parameter for parameter, _ in self._places.values()}
        tied = {OUTPUT.name} - wanted.keys()  # the last of several pipeline stages stores a copy
        check_names(tensors.facts.keys() - tied, wanted, where=where)
        for name, parameter in wanted.items():
            _check_shape(parameter, tensors.facts[name], self.sizes, where=where)
        self._last: tuple[str, Tensor] | None = None

    @property
    def config(self) -> Mapping[str, JsonValue]:
        """The config.json of the model."""
        return self._config

    @cached_property
    def sizes(self) -> Sizes:
        """The sizes of the model."""
        return sizes_for_megatron(self._config)

    @cached_property
    def facts(self) -> Mapping[str, Facts]:
        """The type and shape of every parameter; a tied head is not among them."""
        return {
            name: Facts(
                self._tensors.facts[parameter.name].dtype, shape_of(parameter.row, number, self.sizes)
            )
            for name, (parameter, number) in self._places.items()
        }

    def tensor(self, name: str) -> Tensor:
        """Returns one parameter, without the padding of the vocabulary."""
        parameter, number = self._places[name]
        if self._last is None or self._last[0] != parameter.name:
            self._last = None  # frees it first, so that two are never held
            self._last = (parameter.name, self._tensors.tensor(parameter.name))
        found = part(parameter.row, self._last[1], number, self.sizes)
        return found[: self.facts[name].shape[0]].contiguous()


def _check_shape(parameter: Parameter, facts: Facts, sizes: Sizes, *, where: object) -> None:
    padded = facts.shape[0] if parameter.row.labels[0][0] == "vocabulary" else 0
    wanted = whole_shape(parameter.row, sizes, padded_vocabulary=max(padded, sizes.vocab_size))
    if facts.shape != wanted:
        raise UnsupportedCheckpoint(
            f"{where}: {parameter.name} has shape {facts.shape}, config.json asks for {wanted}; "
            "name the model's config.json with --config",
            "config",
        )
