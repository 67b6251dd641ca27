"""All masks of a checkpoint in one portable file, separate from its weights.

It is a safetensors file: it has a tensor U8 [B] with the packed mask under the checkpoint's name of each
pruned weight, and a MaskTable as JSON in the header's metadata, under `secateur_masks`. A mask is [O, I]
however the checkpoint stores the weight. N:M masks are codes (tensor/codes.py), 2:4 takes 0.667 bits per
weight; all others, and N:M with more than 256 candidates, are bits (tensor/packing.py).

Shape legend: O out_features, I in_features, B bytes.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pipeline.artifacts.artifact import FileRef
from pipeline.artifacts.refs import MASKS_PATH, CheckpointRef, KeepRef
from pipeline.canonical import Frozen, canonical_json
from pipeline.checkpoint.keeps import KeepReader
from pipeline.checkpoint.reader import CheckpointReader
from pipeline.checkpoint.writer import LaterBytes, put_later
from pipeline.errors import CorruptObject, InvalidSpec, SourceNotFound
from pipeline.spec.patterns import NM, Pattern
from pipeline.storage.content import ContentStore
from pipeline.tensor.codes import has_codes, pack_groups, packed_bytes, unpack_groups
from pipeline.tensor.packing import pack_keep, unpack_keep
from pipeline.tensor.zeros import first_bad_group, keep_sha256

TABLE = "secateur_masks"
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Size = Annotated[int, Field(ge=1)]


class MaskEntry(Frozen):
    """One mask. `shape`: [O, I]. `nm`: (keep, group) if every group keeps that many. `keep_sha256`: the
    digest of the mask as bits, as in `certificate.json`. `dense_sha256`: the digest of the stored bytes of
    the weight that the mask was made for."""

    shape: tuple[Size, Size]
    packing: Literal["codes", "bits"]
    nm: tuple[Size, Size] | None = None
    keep_sha256: Digest
    dense_sha256: Digest | None = None

    @property
    def weights(self) -> int:
        """The number of weights that the mask covers."""
        return math.prod(self.shape)

    @property
    def length(self) -> int:
        """The size of the packed mask in bytes."""
        if self.packing == "bits" or self.nm is None:
            return -(-self.weights // 8)
        return packed_bytes(self.weights // self.nm[1], count=math.comb(self.nm[1], self.nm[0]))


class MaskTable(Frozen):
    """The description of the masks in the header of their file."""

    version: Literal[1] = 1
    tensors: dict[str, MaskEntry]


def put_masks(
    content: ContentStore,
    checkpoint: CheckpointRef,
    keep: KeepRef,
    *,
    patterns: Sequence[Pattern] | None = None,
    dense: CheckpointRef | None = None,
) -> FileRef:
    """Stores the keep tensors of a checkpoint as one file of masks, `masks/masks.safetensors`.

    `patterns`: one per block; without them, no mask is N:M. `dense`: the checkpoint with the weights that
    were pruned. Memory holds one block's keep tensors, packed, and one mask. Raises CorruptObject for a mask
    that violates its pattern.
    """
    keeps = KeepReader(content, checkpoint, keep)
    weights = CheckpointReader(content, dense).index.tensors if dense is not None else {}
    table: dict[str, MaskEntry] = {}
    for name, held in keeps.tensors.items():
        pattern = patterns[held.block] if patterns is not None else None
        dense_sha256 = weights[name].sha256 if name in weights else None
        table[name] = described(keeps.matrix(name), pattern, name=name, dense_sha256=dense_sha256)
    tensors = {
        name: LaterBytes(entry.length, lambda name=name, entry=entry: packed(keeps.matrix(name), entry))  # type: ignore[misc]
        for name, entry in table.items()
    }
    metadata = {TABLE: canonical_json(MaskTable(tensors=table)).decode()}
    return put_later(content, MASKS_PATH, tensors, metadata=metadata)


def described(
    keep_OI: Tensor, pattern: Pattern | None, *, name: str, dense_sha256: str | None = None
) -> MaskEntry:
    """Returns the entry of a mask. Raises CorruptObject when `pattern` is N:M and the mask violates it."""
    nm = (pattern.keep, pattern.group) if isinstance(pattern, NM) else None
    if nm is not None and (bad := first_bad_group(keep_OI, keep=nm[0], group=nm[1])) is not None:
        raise CorruptObject(f"the mask of {name} is not NM{nm} in row {bad[0]}, group {bad[1]}")
    return MaskEntry(
        shape=(keep_OI.shape[0], keep_OI.shape[1]),
        packing="codes" if nm is not None and has_codes(*nm) else "bits",
        nm=nm,
        keep_sha256=keep_sha256(keep_OI),
        dense_sha256=dense_sha256,
    )


def packed(keep_OI: Tensor, entry: MaskEntry) -> Tensor:
    """Packs a mask, bool [O, I], as its entry states: uint8 [B]."""
    if entry.packing == "codes" and entry.nm is not None:
        return pack_groups(keep_OI, keep=entry.nm[0], group=entry.nm[1])
    return pack_keep(keep_OI.cpu())


def find_masks(path: Path) -> Path:
    """Returns the file of masks at `path`, or the one in the published checkpoint there. Raises
    SourceNotFound."""
    found = path / MASKS_PATH if path.is_dir() else path
    if not found.is_file():
        raise SourceNotFound(
            f"{found} does not exist; name a file of masks, or a published checkpoint that has {MASKS_PATH}"
        )
    return found


class MaskFile:
    """A local file of masks, read one mask at a time. Its header is checked when it is opened.

    `named`: its name in errors. Every defect raises InvalidSpec.
    """

    def __init__(self, path: Path, *, named: str | None = None) -> None:
        self.named = named or str(path)
        try:
            self._file = safe_open(path, framework="pt")
            metadata, names = self._file.metadata() or {}, set(self._file.keys())
        except (SafetensorError, OSError) as error:
            raise self._wrong(f"is no complete safetensors file ({error}); fetch it again") from error
        self.entries = self._table(metadata.get(TABLE)).tensors
        for missing in sorted(self.entries.keys() - names):
            raise self._wrong(f"lacks the mask of {missing}, which its header lists; fetch it again")
        for extra in sorted(names - self.entries.keys()):
            raise self._wrong(f"holds {extra}, which its header does not list; fetch it again")
        for name, entry in self.entries.items():
            self._check(name, entry)

    def matrix(self, name: str) -> Tensor:
        """Returns a mask, bool [O, I], True = kept. Raises InvalidSpec when its bytes do not encode one."""
        entry = self.entries[name]
        packed_B = self._file.get_tensor(name)
        try:
            if entry.packing == "codes" and entry.nm is not None:
                keep_OI = unpack_groups(packed_B, entry.shape, keep=entry.nm[0], group=entry.nm[1])
            else:
                keep_OI = unpack_keep(packed_B, entry.shape)
        except CorruptObject as error:
            raise self._wrong(f"is damaged in the mask of {name}: {error.message}; fetch it again") from error
        found = keep_sha256(keep_OI)
        if found != entry.keep_sha256:
            raise self._wrong(
                f"is damaged in the mask of {name}: its SHA-256 is {found[:12]}…, the header says "
                f"{entry.keep_sha256[:12]}…; fetch it again"
            )
        if entry.nm is not None and (bad := first_bad_group(keep_OI, keep=entry.nm[0], group=entry.nm[1])):
            raise self._wrong(f"says that {name} is NM{entry.nm}, and row {bad[0]}, group {bad[1]} is not")
        return keep_OI

    def _table(self, text: str | None) -> MaskTable:
        if text is None:
            raise self._wrong(
                f"has no {TABLE} in its header, so it holds no masks; name {MASKS_PATH} of a published "
                f"checkpoint"
            )
        try:
            return MaskTable.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"])
            raise self._wrong(
                f"has {TABLE} in its header that cannot be read, at {field or 'its beginning'}: "
                f"{first['msg']} (version 1 is known)"
            ) from error

    def _check(self, name: str, entry: MaskEntry) -> None:
        if entry.nm is not None:
            keep, group = entry.nm
            if not 1 <= keep < group or entry.shape[1] % group:
                raise self._wrong(
                    f"has a mask NM({keep},{group}) of shape {list(entry.shape)} for {name}; keep must be 1 "
                    f"to group - 1, and group divide the inputs"
                )
        if entry.packing == "codes" and (entry.nm is None or not has_codes(*entry.nm)):
            raise self._wrong(f"has codes for {name}, and {entry.nm} is no N:M with codes; use bits")
        stored = self._file.get_slice(name)
        if stored.get_dtype() != "U8" or stored.get_shape() != [entry.length]:
            raise self._wrong(
                f"has {stored.get_dtype()} {stored.get_shape()} for {name}, and a mask of shape "
                f"{list(entry.shape)} in {entry.packing} is U8 [{entry.length}]; fetch it again"
            )

    def _wrong(self, problem: str) -> InvalidSpec:
        return InvalidSpec(f"{self.named} {problem}")
