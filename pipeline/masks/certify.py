"""The checks of the zeros certificate: every pruned weight of a checkpoint is checked, one tensor at a
time."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from pipeline.artifacts.certificate import Check, Moment, TensorCertificate
from pipeline.artifacts.refs import CheckpointRef, KeepRef
from pipeline.checkpoint.keeps import HeldTensor, KeepReader, Keeps, turned
from pipeline.checkpoint.reader import CheckpointReader
from pipeline.checkpoint.slices import stored_apart, values_apart
from pipeline.errors import ZerosLost
from pipeline.spec.patterns import NM, Pattern
from pipeline.storage.content import ContentStore
from pipeline.tensor.zeros import count_zeros, first_bad_group, first_revived, keep_sha256

Certified = tuple[tuple[TensorCertificate, ...], Check]


def certify(
    content: ContentStore,
    checkpoint: CheckpointRef,
    keep: KeepRef,
    *,
    at: Moment,
    step: int | None = None,
    patterns: Sequence[Pattern] | None = None,
    share: tuple[int, int] = (0, 1),
) -> Certified:
    """Checks a stored checkpoint against its keep tensors; every byte is read and verified.

    `patterns`: one per block; where it is N:M, every group is checked. `share`: with (r, n), only every n-th
    block is checked, from block r on. Raises ZerosLost, which names tensor,
    position and step.
    """
    keeps = KeepReader(content, checkpoint, keep)
    first, every = share
    keeps.tensors = {name: one for name, one in keeps.tensors.items() if one.block % every == first}
    reader = CheckpointReader(content, checkpoint)
    weights = ((name, reader.tensor(name)) for name in keeps.tensors)
    return certify_tensors(weights, keeps, at=at, step=step, patterns=patterns)


def certify_tensors(
    weights: Iterable[tuple[str, Tensor]],
    keeps: Keeps,
    *,
    at: Moment,
    step: int | None = None,
    patterns: Sequence[Pattern] | None = None,
) -> Certified:
    """Certifies, like `certify`, weights by checkpoint name, each once, in any order; others are ignored.

    They have the checkpoint's orientation. The order block by block is fastest, because keep tensors are read
    by block.
    """
    found: dict[str, TensorCertificate] = {}
    moment = at if step is None else f"{at}, after step {step}"
    for name, weight in weights:
        if name in keeps.tensors:
            pattern = patterns[keeps.tensors[name].block] if patterns is not None else None
            found[name] = _certificate(weight, keeps, keeps.tensors[name], pattern, moment=moment)
    missing = [name for name in keeps.tensors if name not in found]
    if missing:
        raise ZerosLost(f"{missing[0]} is not there ({moment}); {len(missing)} pruned tensors are missing")
    tensors = tuple(found[name] for name in keeps.tensors)
    check = Check(
        at=at,
        step=step,
        tensors=len(tensors),
        held=sum(one.held for one in tensors),
        zeros=sum(one.zeros for one in tensors),
    )
    return tensors, check


def _certificate(
    weight: Tensor, keeps: Keeps, held: HeldTensor, pattern: Pattern | None, *, moment: str
) -> TensorCertificate:
    keep_OI = keeps.matrix(held.name)
    keep = turned(keep_OI, keeps.row, held.linear)
    if weight.shape != keep.shape:
        raise ZerosLost(
            f"{held.name} is {list(weight.shape)}, its keep tensor {list(keep.shape)} ({moment}); "
            f"the weights are not those that were pruned"
        )
    position = first_revived(weight, keep)
    if position is not None:
        raise ZerosLost(
            f"{held.name} {list(position)} was pruned and is {weight[position].item():.6g} ({moment})"
        )
    nm = None
    if isinstance(pattern, NM):
        nm = (pattern.keep, pattern.group)
        bad = first_bad_group(keep_OI, keep=pattern.keep, group=pattern.group)
        if bad is not None:
            row, group = bad
            inputs_M = keep_OI[row, group * pattern.group : (group + 1) * pattern.group]
            raise ZerosLost(
                f"{held.name} row {row}, inputs {group * pattern.group} to "
                f"{group * pattern.group + len(inputs_M) - 1} keep {int(inputs_M.sum())} weights, "
                f"NM({pattern.keep},{pattern.group}) keeps {pattern.keep} of {pattern.group} ({moment})"
            )
    return TensorCertificate(
        tensor=held.name,
        block=held.block,
        linear=held.linear,
        keep_sha256=keep_sha256(keep_OI),
        weights=weight.numel(),
        held=int((~keep).sum()),
        zeros=count_zeros(weight, keep),
        nm=nm,
    )


def read_directory(directory: Path, wanted: Collection[str]) -> Iterator[tuple[str, Tensor]]:
    """Yields name and weight of the wanted tensors in a directory's safetensors files, one at a time."""
    sliced = stored_apart(wanted)
    for path in sorted(directory.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - it is not a mapping
                if name in wanted or name in sliced:
                    yield from values_apart(name, file.get_tensor(name), sliced)
