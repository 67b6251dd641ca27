"""One portable file of masks: read as it was written, and refused when anything is wrong."""

import hashlib
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

from pipeline.checkpoint.reader import CheckpointReader
from pipeline.errors import CorruptObject, InvalidSpec, SourceNotFound
from pipeline.masks.file import TABLE, MaskFile, find_masks, put_masks
from pipeline.spec.patterns import NM
from pipeline.tensor.zeros import keep_sha256
from tests.pipeline.masks.made_masks import made_masks, rewritten


@pytest.mark.parametrize(
    ("kind", "nm", "bits"),
    [
        ("llama", (2, 4), 2 / 3),
        ("gpt2", (4, 8), 1.0),
        ("gpt2", (3, 4), 0.5),
        ("opt", None, 1.0),
        ("llama", (8, 16), 1.0),
    ],
)
def test_masks_come_back(kind: str, nm: tuple[int, int] | None, bits: float, tmp_path: Path) -> None:
    made = made_masks(kind, tmp_path, nm=nm)
    file = MaskFile(made.file)
    assert list(file.entries) == sorted(made.keeps)
    weights = 0
    reader = CheckpointReader(made.content, made.checkpoint)
    for name, keep in made.keeps.items():
        entry = file.entries[name]
        assert entry.shape == tuple(keep.shape)
        assert entry.nm == nm
        assert entry.packing == ("bits" if nm in (None, (8, 16)) else "codes")
        assert entry.keep_sha256 == keep_sha256(keep)
        assert entry.dense_sha256 == reader.index.tensors[name].sha256
        assert file.matrix(name).equal(keep)
        weights += keep.numel()
    with safe_open(made.file, framework="pt") as opened:
        stored = sum(opened.get_slice(name).get_shape()[0] for name in opened.keys())  # noqa: SIM118
    assert 8 * stored / weights == pytest.approx(bits, rel=0.01)


def test_equal_masks_make_equal_files_that_need_no_pattern_and_no_weights(tmp_path: Path) -> None:
    made = made_masks("llama", tmp_path)
    again = put_masks(made.content, made.checkpoint, made.keep, patterns=made.patterns, dense=made.checkpoint)
    assert made.content.get_bytes(again.blob) == made.file.read_bytes()
    plain = put_masks(made.content, made.checkpoint, made.keep)
    made.file.write_bytes(made.content.get_bytes(plain.blob))
    file = MaskFile(made.file)
    assert {(one.packing, one.nm, one.dense_sha256) for one in file.entries.values()} == {
        ("bits", None, None)
    }
    assert all(file.matrix(name).equal(keep) for name, keep in made.keeps.items())
    with pytest.raises(CorruptObject, match=r"is not NM\(1, 4\) in row 0, group 0"):
        put_masks(
            made.content, made.checkpoint, made.keep, patterns=[NM(keep=1, group=4)] * len(made.patterns)
        )


def first(table: dict[str, Any]) -> dict[str, Any]:
    return next(iter(table["tensors"].values()))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda header, table, body: header["__metadata__"].pop(TABLE), "holds no masks"),
        (lambda header, table, body: table.update(version=2), "at version: .*version 1 is known"),
        (lambda header, table, body: table["tensors"].popitem(), "holds .*v_proj.weight, which its header"),
        (lambda header, table, body: table["tensors"].update(more=first(table)), "lacks the mask of more"),
        (lambda header, table, body: first(table).update(shape=[64, 64]), r"is U8 \[342\]"),
        (lambda header, table, body: first(table).update(shape=[64, -4]), "greater than or equal to 1"),
        (lambda header, table, body: first(table).update(nm=[4, 4]), "keep must be 1 to group - 1"),
        (lambda header, table, body: first(table).update(nm=None), "no N:M with codes"),
        (lambda header, table, body: first(table).update(packing="bits"), r"in bits is U8"),
        (lambda header, table, body: body.pop(), "no complete safetensors file"),
    ],
)
def test_a_header_that_is_wrong_is_refused(change: Callable[..., object], said: str, tmp_path: Path) -> None:
    made = made_masks("llama", tmp_path)
    with pytest.raises(InvalidSpec, match=said) as caught:
        MaskFile(rewritten(made.file, change))
    assert str(made.file) in caught.value.message


@pytest.mark.parametrize(("value", "said"), [(255, "255, and 3 codes of 6"), (0, "its SHA-256 is")])
def test_bytes_that_are_wrong_are_refused(value: int, said: str, tmp_path: Path) -> None:
    made = made_masks("llama", tmp_path)

    def damage(header: dict[str, Any], table: dict[str, Any], body: bytearray) -> None:
        body[header[damaged]["data_offsets"][0]] = value

    damaged = list(made.keeps)[2]
    file = MaskFile(rewritten(made.file, damage))
    with pytest.raises(InvalidSpec, match=f"damaged in the mask of {damaged}: .*{said}"):
        file.matrix(damaged)


def test_masks_are_found_in_published_directories(tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "masks.safetensors").touch()
    assert find_masks(tmp_path) == tmp_path / "masks" / "masks.safetensors"
    with pytest.raises(SourceNotFound, match="published checkpoint that has masks/masks"):
        find_masks(tmp_path / "masks")
    (tmp_path / "notes").write_text("no masks")
    with pytest.raises(InvalidSpec, match="no complete safetensors file"):
        MaskFile(tmp_path / "notes")


def test_anyone_can_read_them_with_numpy(tmp_path: Path) -> None:
    """As docs/masks.md says it."""
    made = made_masks("gpt2", tmp_path)
    candidates = np.array(
        [[place in kept for place in range(4)] for kept in itertools.combinations(range(4), 2)]
    )
    with safe_open(made.file, "np") as file:
        table = json.loads(file.metadata()[TABLE])["tensors"]
        for name, keep in made.keeps.items():
            shape = table[name]["shape"]
            codes = (file.get_tensor(name)[:, None] // 6 ** np.arange(3) % 6).reshape(-1)
            mask = candidates[codes[: np.prod(shape) // 4]].reshape(shape)
            assert np.array_equal(mask, keep.numpy())
            packed = np.packbits(mask, axis=None, bitorder="little")
            assert hashlib.sha256(packed.tobytes()).hexdigest() == table[name]["keep_sha256"]
