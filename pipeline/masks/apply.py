"""Applies masks to a dense checkpoint: writes an ordinary Hugging Face directory whose pruned weights are
zero.

The files are unchanged, headers included, except for the bytes of pruned weights. Memory holds one tensor and
its mask.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from pipeline.architecture.row import Architecture
from pipeline.architecture.rows import row_for
from pipeline.artifacts.certificate import Certificate, Check
from pipeline.artifacts.refs import CertificateRef
from pipeline.canonical import canonical_json
from pipeline.checkpoint.compare import compare
from pipeline.checkpoint.config_json import loadable_bytes, parse_config
from pipeline.checkpoint.export import new_directory
from pipeline.checkpoint.header import facts_apart, read_headers
from pipeline.checkpoint.keeps import HeldTensor, held_tensors, turned
from pipeline.checkpoint.language_model import language_config
from pipeline.checkpoint.layout import CONFIG_JSON
from pipeline.checkpoint.leftovers import remark_on_ahead
from pipeline.checkpoint.quantized import codes_of
from pipeline.checkpoint.scan import DescribedTensor, described_apart, read_header
from pipeline.checkpoint.slices import stored_apart
from pipeline.errors import InvalidSpec, SourceChanged, UnsupportedCheckpoint
from pipeline.masks.certify import certify_tensors, read_directory
from pipeline.masks.file import MaskFile, find_masks
from pipeline.resolve.model import model_pin
from pipeline.sources import SourceAccess, open_source
from pipeline.spec.patterns import NM, Pattern, Unstructured
from pipeline.spec.uri import file_uri
from pipeline.storage.base import CHUNK_BYTES

INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by size in bytes


@dataclass(frozen=True)
class FittedMasks:
    """The masks of a file that fit one checkpoint. `tensors`: by name, block by block."""

    file: MaskFile
    row: Architecture
    tensors: Mapping[str, HeldTensor]

    def matrix(self, name: str) -> Tensor:
        """Returns the mask of a weight, bool [O, I]."""
        return self.file.matrix(name)

    def keep(self, name: str) -> Tensor:
        """Returns the mask in the orientation in which the checkpoint stores the weight."""
        return turned(self.matrix(name), self.row, self.tensors[name].linear)

    @cached_property
    def patterns(self) -> tuple[Pattern, ...]:
        """The pattern of each block: N:M if all of its masks have the same."""
        found: dict[int, set[tuple[int, int] | None]] = {}
        for name, held in self.tensors.items():
            found.setdefault(held.block, set()).add(self.file.entries[name].nm)
        return tuple(_pattern(found.get(block, set())) for block in range(max(found, default=-1) + 1))


@dataclass(frozen=True)
class Applied:
    """The result of applying masks. `held`: the number of pruned weights, out of `weights`. `unknown`: the
    number of masks whose file does not name the weights that they were made for; `others`: tensors that
    differ from those weights. `remarks`: sentences about tensors that no model reads."""

    certificate: Certificate
    held: int
    weights: int
    unknown: int
    others: tuple[str, ...]
    remarks: tuple[str, ...] = ()


def fit(file: MaskFile, row: Architecture, shapes: Mapping[str, tuple[int, ...]], *, of: str) -> FittedMasks:
    """Fits the masks to a checkpoint, called `of` in errors, whose tensors have these shapes. Raises
    InvalidSpec when they are not exactly those of its prunable weights, or have other shapes."""
    held = {one.name: one for one in held_tensors(row, shapes)}
    counts = f"{len(file.entries)} masks, {len(held)} prunable weights"
    for missing in [name for name in held if name not in file.entries][:1]:
        raise InvalidSpec(
            f"{file.named} has no mask for {missing} of {of} ({counts}); use masks that were made for this "
            f"model"
        )
    for extra in [name for name in file.entries if name not in held][:1]:
        raise InvalidSpec(
            f"{file.named} has a mask for {extra}, which is no prunable weight of {of} ({counts}); use masks "
            f"that were made for this model"
        )
    for name, one in held.items():
        shape = shapes[name][::-1] if row.is_transposed(one.linear) else shapes[name]
        if file.entries[name].shape != shape:
            raise InvalidSpec(
                f"{file.named} has a mask of {list(file.entries[name].shape)} for {name}, and the weight of "
                f"{of} is {list(shape)} (out_features, in_features); use masks that were made for this model"
            )
    return FittedMasks(file, row, held)


def apply_masks(
    dense: Path, masks: Path, out: Path, *, other_weights: bool = False
) -> Iterator[int | Applied]:
    """Yields the number of masked tensors, and finally the result; only then does `out` exist.

    `dense`: a checkpoint's directory. `masks`: a file of masks, or a published checkpoint that has one. Kept
    weights keep their bits, pruned weights are +0. Tokenizer and configuration are copied, and
    `certificate.json` certifies that every tensor was read back. Raises SourceNotFound,
    UnsupportedCheckpoint, and InvalidSpec where masks do not fit, or, without `other_weights`, were made for
    other weights.
    """
    file = MaskFile(find_masks(masks))
    access = SourceAccess(allowed_roots=(Path("/"),))  # the user runs this on their own files
    source = open_source(file_uri(dense), access)
    pin = model_pin(source)
    files = [one.path for one in pin.files]
    described = read_headers(pin, source)
    config = parse_config((dense / CONFIG_JSON).read_bytes())
    assert isinstance(config, dict), "resolve has read it"
    compared = compare(config, described, where=str(dense))
    alone = language_config(config)
    row = row_for(str(alone["model_type"]))
    if codes_of(row, described):
        raise UnsupportedCheckpoint(
            f"{dense} holds quantized weights, whose bytes cannot be masked; import it with a job, or save "
            f"bfloat16 weights with transformers, and apply the masks to those",
            "dense",
        )
    headers = {name: read_header(dense / name) for name in files if name.endswith(".safetensors")}
    read = {name: facts for name, facts in described.items() if name not in compared.ahead}
    shapes = {name: facts.shape for name, facts in facts_apart(row, read).items()}
    ahead = remark_on_ahead(row, compared.ahead, stay=True)
    fitted = fit(file, row, shapes, of=str(dense))
    with new_directory(out) as written:
        work = _Work(fitted, other_weights=other_weights)
        for name in files:
            if name in headers:
                yield from work.shard(dense / name, written / name, *headers[name])
            else:
                _copy_small(dense, written, name)
        weights = read_directory(written, fitted.tensors)
        tensors, check = certify_tensors(weights, fitted, at="published", patterns=fitted.patterns)
        chosen = Check(at="mask", tensors=len(tensors), held=work.held, zeros=work.held)
        certificate = Certificate(tensors=tensors, checks=(chosen, check))
        (written / CertificateRef.path_of(Certificate)).write_bytes(canonical_json(certificate))
    yield Applied(
        certificate=certificate,
        held=check.held,
        weights=sum(one.weights for one in tensors),
        unknown=sum(entry.dense_sha256 is None for entry in file.entries.values()),
        others=tuple(work.others),
        remarks=(*compared.remarks, *([] if ahead is None else [ahead])),
    )


def _copy_small(dense: Path, written: Path, name: str) -> None:
    (written / name).parent.mkdir(exist_ok=True)
    (written / name).write_bytes(loadable_bytes(name, (dense / name).read_bytes()))


class _Work:
    """The masks, and the findings while they are applied."""

    def __init__(self, masks: FittedMasks, *, other_weights: bool) -> None:
        self._masks = masks
        self._other_weights = other_weights
        self._sliced = stored_apart(masks.tensors)
        self.others: list[str] = []
        self.held = self._done = 0

    def shard(self, dense: Path, out: Path, start: int, tensors: list[DescribedTensor]) -> Iterator[int]:
        """Copies one file, whose tensors begin at byte `start`, and masks its pruned weights."""
        with dense.open("rb") as read, out.open("wb") as written:
            self._copy(read, written, start)
            for tensor in described_apart(tensors, self._sliced):
                if tensor.name not in self._masks.tensors:
                    self._copy(read, written, tensor.length)
                    continue
                written.write(self._masked(tensor, _exactly(read, tensor.length)))
                self._done += 1
                yield self._done

    def _masked(self, tensor: DescribedTensor, data: bytearray) -> bytearray:
        """Returns the same bytes with zeros where weights are pruned."""
        expected = self._masks.file.entries[tensor.name].dense_sha256
        if expected is not None and hashlib.sha256(data).hexdigest() != expected:
            self._other(tensor.name)
        keep = self._masks.keep(tensor.name)
        size = tensor.length // keep.numel()
        bits = torch.frombuffer(data, dtype=INTEGERS[size]).reshape(tensor.shape)
        bits.masked_fill_(~keep, 0)
        self.held += keep.numel() - int(keep.sum())
        return data

    def _other(self, name: str) -> None:
        self.others.append(name)
        if not self._other_weights:
            raise InvalidSpec(
                f"{name} is not the weight that its mask in {self._masks.file.named} was made for; masks fit "
                f"the weights that they were chosen or learned for: use that checkpoint, or --other-weights "
                f"to apply them all the same",
                "other_weights",
            )

    def _copy(self, read: BinaryIO, written: BinaryIO, length: int) -> None:
        for at in range(0, length, CHUNK_BYTES):
            written.write(_exactly(read, min(CHUNK_BYTES, length - at)))


def _exactly(file: BinaryIO, length: int) -> bytearray:
    data = bytearray(length)
    if file.readinto(data) != length:  # type: ignore[attr-defined]
        raise SourceChanged(f"{file.name} became shorter while it was read; do it again")
    return data


def _pattern(found: set[tuple[int, int] | None]) -> Pattern:
    same = next(iter(found)) if len(found) == 1 else None
    return Unstructured(sparsity=0) if same is None else NM(keep=same[0], group=same[1])
