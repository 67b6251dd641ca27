"""The comparison of a whole checkpoint with the model that its config.json makes in transformers.

transformers loads what fits, drops the rest and initializes what is missing. Here every stored tensor must
have a place in the model, and every place its tensor, before anything is computed. Headers are enough for it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import JsonValue

from pipeline.architecture.row import Architecture
from pipeline.architecture.rows import row_for
from pipeline.checkpoint.class_config import class_config, reason
from pipeline.checkpoint.header import TensorFacts, facts_apart
from pipeline.checkpoint.language_model import language_config, language_names, wrapper_of
from pipeline.checkpoint.leftovers import harmless, predicting_ahead, remark_on
from pipeline.checkpoint.plain import check_plain
from pipeline.checkpoint.quantized import as_read
from pipeline.checkpoint.slices import whole_name
from pipeline.errors import UnsupportedCheckpoint

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from pipeline.checkpoint.skeleton import Located

NAMED = 3  # tensors that an error names before it counts the others
FIELD = "spec.model.source"


@dataclass(frozen=True)
class Comparison:
    """A checkpoint that fits its model. `ignored`: stored tensors that no model reads and that may be
    ignored. `ahead`: those of them that predict tokens further ahead. `same`: groups of stored names that are
    one tensor in the model. Only the bytes can tell if their values are the same (ties.py)."""

    ignored: tuple[str, ...]
    same: tuple[tuple[str, ...], ...]
    ahead: tuple[str, ...] = ()

    @property
    def remarks(self) -> tuple[str, ...]:
        """Sentences for everyone who reads the results."""
        remark = remark_on(tuple(name for name in self.ignored if name not in {*self.ahead}))
        return () if remark is None else (remark,)


def compare(config: Mapping[str, JsonValue], tensors: Mapping[str, TensorFacts], *, where: str) -> Comparison:
    """Compares names, shapes and types of all stored tensors with the state dict of the class.

    `config`: the content of config.json. `where`: the checkpoint's name in errors. Of a multimodal checkpoint
    the language model is compared by itself, and then all tensors with the whole model (outside.py). Raises
    UnsupportedCheckpoint that names tensors and the way out, for quantized or empty weights, missing, left
    over and misshapen tensors, tensors of a block that the row does not know, and for a config of which
    transformers makes no model.
    """
    from pipeline.checkpoint.skeleton import locate

    check_plain(config, tensors, where=where)
    alone = language_config(config)
    row = row_for(str(alone.get("model_type")))
    tensors = as_read(row, tensors)
    ahead = predicting_ahead(row, alone, tensors)
    tensors = {name: facts for name, facts in tensors.items() if name not in {*ahead}}
    wholes, tensors = tensors, facts_apart(row, tensors)
    names = language_names(config, tensors)
    model = model_of(alone, where=where)
    located = locate(model, names).as_stored(names)
    _check_known(row, located, where=where)
    left = _left_over(located, names)
    if located.missing or left:
        raise UnsupportedCheckpoint(
            f"{where} and its config.json are not the same model: {_difference(located.missing, left)}; "
            f"{_way_out(model, alone, names, where=where)}",
            FIELD,
        )
    for name, disk in located.names.items():
        wanted, got = located.shapes[name], tensors[disk].shape
        if wanted != got:
            raise UnsupportedCheckpoint(
                f"{where}: {disk} has shape {list(got)}, and the model of its config.json has "
                f"{list(wanted)} there; use the config.json that belongs to the weights",
                FIELD,
            )
    unread = set(names.values()) - set(located.names.values()) | {*ahead}
    if wrapper_of(config) is not None:
        from pipeline.checkpoint.outside import compare_outside

        inside = frozenset(map(whole_name, names.values()))
        unread |= compare_outside(config, wholes, inside=inside, where=where)
    return Comparison(ignored=tuple(sorted(unread)), same=located.same, ahead=ahead)


def model_of(config: Mapping[str, JsonValue], *, where: str) -> "PreTrainedModel":
    """Returns the model that transformers makes of a config.json, with neither weights nor buffers. Raises
    UnsupportedCheckpoint where it makes none."""
    from pipeline.checkpoint.skeleton import shapes_only

    made = class_config(config)
    try:
        return shapes_only(made)
    except Exception as error:  # whatever goes wrong here, the cause is in config.json
        raise UnsupportedCheckpoint(
            f"transformers makes no model of the config.json of {where}: {reason(error)}; "
            f"correct it, or use the one that belongs to the weights",
            FIELD,
        ) from error


def _check_known(row: Architecture, located: "Located", *, where: str) -> None:
    """Checks that the row knows all tensors of the blocks. Others would stay as they are, and nobody would be
    told: the experts of a type that has them in some models alone."""
    for name in located.shapes:
        placed = row.inside(name)
        if placed is None:
            continue
        _, inside = placed
        try:
            row.labels(inside)
        except UnsupportedCheckpoint as error:
            raise UnsupportedCheckpoint(
                f"{where} is a kind of {row.model_type} that is not known here: its blocks have "
                f"{inside}, of which pipeline/architecture says nothing; use another model",
                FIELD,
            ) from error


def _left_over(located: "Located", names: Mapping[str, str]) -> list[str]:
    """Returns the stored tensors that the model has no place for and that may not be ignored. `names`: of all
    that may have one, by the names without other parts."""
    unread = set(names.values()) - set(located.names.values())
    return sorted(unread.difference(harmless(unread)))


def _difference(missing: Sequence[str], left: Sequence[str]) -> str:
    said = []
    if missing:
        said.append(f"{len(missing)} tensors are missing ({_some(missing)})")
    if left:
        said.append(f"{len(left)} are stored that the model has no place for ({_some(left)})")
    return ", and ".join(said)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (" ..." if len(names) > NAMED else "")


def _way_out(
    model: "PreTrainedModel",
    config: Mapping[str, JsonValue],
    names: Mapping[str, str],
    *,
    where: str,
) -> str:
    """Returns the remedy: the fields of config.json that would make the two agree, if there are some."""
    settings = {
        name: not value
        for name, value in model.config.to_dict().items()
        if isinstance(value, bool) and (name.endswith("bias") or name == "tie_word_embeddings")
    }
    before = _misfits(config, names, where=where)
    helpful = {
        name: value
        for name, value in settings.items()
        if _misfits({**config, name: value}, names, where=where) < before
    }
    if helpful and _misfits({**config, **helpful}, names, where=where) == 0:
        said = " and ".join(f"{name} to {str(value).lower()}" for name, value in helpful.items())
        return f"set {said} in config.json if the weights are right"
    return (
        "use the config.json that belongs to the weights, load the model with its own code and save it again "
        "with save_pretrained, or take what is no part of the language model out of the files"
    )


def _misfits(config: Mapping[str, JsonValue], names: Mapping[str, str], *, where: str) -> int:
    """Counts the tensors that are missing or left over under a config."""
    from pipeline.checkpoint.skeleton import locate

    located = locate(model_of(config, where=where), names).as_stored(names)
    return len(located.missing) + len(_left_over(located, names))
