"""What can be said about a job's model before the job runs, from headers and config.json, with transformers'
classes. This file imports neither torch nor transformers, so that whoever inspects in another process can
name its function."""

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import JsonValue

from pipeline.architecture.rows import row_for
from pipeline.checkpoint.compare import compare, model_of
from pipeline.checkpoint.header import TensorFacts
from pipeline.errors import InvalidSpec, UnsupportedCheckpoint
from pipeline.spec.structure import Structure
from pipeline.structure.sizes import resized


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
    if asked.structure is not None:
        _check_cut(asked.config, asked.structure)


def _check_cut(config: Mapping[str, JsonValue], structure: Structure) -> None:
    from pipeline.checkpoint.slicing import full_config

    row = row_for(str(config["model_type"]))
    full = full_config(config)
    new = structure.target(row, full)
    smaller = {
        **resized(row, full, new, range(new.num_hidden_layers)),
        **structure.changes(row, full),
    }
    try:
        model_of(smaller, where="the cut model")
    except UnsupportedCheckpoint as error:
        reason = error.message.partition(";")[0]
        raise InvalidSpec(f"{reason}; choose sizes that its class allows", "spec.structure") from error
