"""The config's word on tied weights, held against the bytes of an imported checkpoint.

config.json may say that embedding and head are one tensor while the file stores both. transformers ties them
if their values are the same, and otherwise loads two matrices. An imported checkpoint says which of the two
it is, so that nothing after it has to look.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pipeline.artifacts.tensor_index import TensorEntry
from pipeline.checkpoint.config_json import TIED


@dataclass(frozen=True)
class Ties:
    """What an imported checkpoint changes. `copies`: tensors that its index leaves out, because they repeat
    another; `untied`: pairs of tensors that differ, although the config says that they are one."""

    copies: tuple[str, ...]
    untied: tuple[tuple[str, str], ...]

    @property
    def remarks(self) -> tuple[str, ...]:
        """Sentences for everyone who reads the results."""
        return tuple(untied_remark(embedding, head) for embedding, head in self.untied)


def find_ties(
    same: Sequence[Sequence[str]],
    tensors: Mapping[str, TensorEntry],
    equal: Callable[[str, str], bool],
) -> Ties:
    """Compares the stored tensors that are one in the model (see Comparison) by their digests. `equal`
    compares the values of two that are stored in different types."""
    copies: list[str] = []
    untied: list[tuple[str, str]] = []
    for first, *others in same:
        for other in others:
            one, two = tensors[first], tensors[other]
            if one.sha256 == two.sha256 or (one.dtype != two.dtype and equal(first, other)):
                copies.append(other)
            else:
                untied.append((first, other))
    return Ties(tuple(copies), tuple(untied))


def untied_remark(embedding: str, head: str) -> str:
    """Returns the sentence for two tensors that differ, although the config says that they are one."""
    return (
        f"config.json says {TIED}, and the stored {head} is not {embedding}: the model has both, as "
        f"transformers loads it, and its config.json says {TIED} false from now on"
    )
