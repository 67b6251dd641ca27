"""What can be said about a job's model before the job runs, from headers and config.json, with transformers'
classes. This file imports neither torch nor transformers, so that whoever inspects in another process can
name its function."""

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import JsonValue

from pipeline.checkpoint.compare import compare
from pipeline.checkpoint.header import TensorFacts
from pipeline.checkpoint.language_model import language_config
from pipeline.spec.structure import Structure


@dataclass(frozen=True)
class Inspection:
    """A checkpoint to inspect: the content of its config.json, its tensors, its name in errors, and the cut
    that its job asks for."""

    config: Mapping[str, JsonValue]
    tensors: Mapping[str, TensorFacts]
    where: str
    structure: Structure | None = None


def inspect(asked: Inspection) -> None:
    """Compares the checkpoint with its model, and makes the model that the cut leaves, without weights.

    Raises UnsupportedCheckpoint, and InvalidSpec for sizes of which transformers makes no model.
    """
    compare(asked.config, asked.tensors, where=asked.where)
    if asked.structure is not None and asked.structure.beside_vocabulary is not None:
        from pipeline.checkpoint.constructs import check_constructs

        check_constructs(asked.structure, language_config(asked.config))
