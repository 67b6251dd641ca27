"""Packed weights as files: what goes in comes out to the bit, and anybody reads them with numpy."""

import hashlib
import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file as numpy_file
from safetensors.torch import load_file, save_file
from torch import Tensor

from secateur.sparse.errors import SparseError
from secateur.sparse.files import SparseFile, pack_file, unpack_file
from tests.sparse.pruned import pruned

ODD = (5, 13)  # sizes that divide nothing


def saved(path: Path, **tensors: Tensor) -> Path:
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata={"format": "pt"}
    )
    return path


def random_weight(
    shape: tuple[int, int] = (24, 200), *, sparsity: float = 0.7, dtype: str = "float32"
) -> Tensor:
    drawn = torch.Generator().manual_seed(3)
    return pruned(torch.randn(shape, generator=drawn), sparsity).to(getattr(torch, dtype))


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("dtype", "values"),
    [("float32", "float32"), ("bfloat16", "bf16"), ("float16", "float32"), ("bfloat16", "float32")],
)
def test_float_types_give_the_ordinary_file_back_byte_by_byte(
    tmp_path: Path, dtype: str, values: str
) -> None:
    odd = random_weight(ODD, sparsity=0.8, dtype=dtype)
    odd[0, 0] = -0.0
    source = saved(
        tmp_path / "a.safetensors",
        weight=random_weight(dtype=dtype, sparsity=0.9),
        odd=odd,
        norm=torch.ones(24, dtype=getattr(torch, dtype)),
        whole=random_weight(sparsity=0, dtype=dtype),
        ids=torch.arange(7),
    )
    made = pack_file(source, tmp_path / "b.safetensors", values=values)  # type: ignore[arg-type]
    assert made.lossless
    assert made.packed == 2
    assert made.sparse_bytes == (tmp_path / "b.safetensors").stat().st_size
    unpack_file(tmp_path / "b.safetensors", tmp_path / "c.safetensors")
    assert digest(tmp_path / "c.safetensors") == digest(source)


@given(
    rows=st.integers(1, 9),
    columns=st.integers(1, 70),
    kept=st.floats(0, 1),
    seed=st.integers(0, 2**16),
    dtype=st.sampled_from(["float32", "bfloat16"]),
)
def test_any_bits_come_back(
    tmp_path_factory: pytest.TempPathFactory, rows: int, columns: int, kept: float, seed: int, dtype: str
) -> None:
    """Whatever the bits of the weights are, also those of infinities and denormals."""
    drawn = np.random.default_rng(seed)
    width = np.int32 if dtype == "float32" else np.int16
    bits = drawn.integers(np.iinfo(width).min, np.iinfo(width).max, (rows, columns), width, endpoint=True)
    bits[drawn.random((rows, columns)) > kept] = 0
    weight = torch.from_numpy(bits).view(getattr(torch, dtype))
    weight[torch.isnan(weight)] = 1.0  # converting may quiet a signalling NaN
    directory = tmp_path_factory.mktemp("any")
    source = saved(directory / "a.safetensors", weight=weight)
    pack_file(source, directory / "b.safetensors", values="float32" if dtype == "float32" else "bf16")
    unpack_file(directory / "b.safetensors", directory / "c.safetensors")
    assert digest(directory / "c.safetensors") == digest(source)


def test_numpy_alone_reads_the_format(tmp_path: Path) -> None:
    """As docs/sparse.md describes it: the numpy reader of safetensors, and no line of this project."""
    weight = random_weight((24, 203))
    source = saved(tmp_path / "a.safetensors", w=weight, norm=torch.ones(3))
    for values in ("float32", "int8"):
        path = tmp_path / f"{values}.safetensors"
        pack_file(source, path, values=values)  # type: ignore[arg-type]
        with safe_open(path, framework="np") as file:
            metadata = file.metadata()
        assert (metadata["format"], metadata["format_version"]) == ("secateur-sparse", "1")
        assert metadata["lossless"] == ("true" if values == "float32" else "false")
        rows, columns = json.loads(metadata["header"])["w"]["shape"]
        parts = numpy_file(path)
        kept = np.unpackbits(parts["w.bits"], axis=1, count=columns, bitorder="little").astype(bool)
        found = np.zeros((rows, columns), np.float32)
        found[kept] = parts["w.values"]
        if values == "int8":
            scales = np.repeat(parts["w.scales"], int(metadata["group"]), axis=1)[:, :columns]
            found *= scales
            assert np.abs(found - weight.numpy()).max() <= scales.max() / 2 * (1 + 1e-5)
        else:
            np.testing.assert_array_equal(found, weight.numpy())
        np.testing.assert_array_equal(parts["norm"], np.ones(3, np.float32))


def test_what_is_lossy_is_unpacked_when_asked_for(tmp_path: Path) -> None:
    source = saved(tmp_path / "a.safetensors", w=random_weight())
    for values in ("int8", "bf16"):
        packed = tmp_path / f"{values}.safetensors"
        assert not pack_file(source, packed, values=values).lossless  # type: ignore[arg-type]
        with pytest.raises(SparseError, match=f"{values} values, .* --lossy"):
            unpack_file(packed, tmp_path / "none")
        assert not (tmp_path / "none").exists()
        unpack_file(packed, tmp_path / f"{values}-dense.safetensors", lossy=True)
        found = load_file(tmp_path / f"{values}-dense.safetensors")["w"]
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, load_file(source)["w"], atol=0.02, rtol=0.01)


def test_matrices_that_would_not_become_smaller_stay(tmp_path: Path) -> None:
    """A tenth of zeros is the least; and float32 values of a bfloat16 weight pay from more than a half on."""
    source = saved(
        tmp_path / "a.safetensors",
        few=random_weight(sparsity=0.05, dtype="bfloat16"),
        half=random_weight(sparsity=0.5, dtype="bfloat16"),
        most=random_weight(sparsity=0.9, dtype="bfloat16"),
    )
    for values, packed in (("bf16", {"half", "most"}), ("float32", {"most"}), ("int8", {"half", "most"})):
        path = tmp_path / f"{values}.safetensors"
        pack_file(source, path, values=values)  # type: ignore[arg-type]
        assert SparseFile(path).packed_names == packed


def test_files_that_cannot_be_packed_are_refused(tmp_path: Path) -> None:
    source = saved(tmp_path / "a.safetensors", w=random_weight())
    pack_file(source, tmp_path / "b.safetensors", values="float32")
    with pytest.raises(SparseError, match="packed already"):
        pack_file(tmp_path / "b.safetensors", tmp_path / "c.safetensors", values="float32")
    with pytest.raises(SparseError, match=r"no file of packed weights; `secateur pack`"):
        SparseFile(source)
    twice = saved(tmp_path / "d.safetensors", w=random_weight(), **{"w.bits": torch.ones(3)})
    with pytest.raises(SparseError, match=r"has a tensor w\.bits, which is the name of a part of w"):
        pack_file(twice, tmp_path / "e.safetensors", values="float32")
    broken = random_weight()
    broken[0, 0] = float("nan")
    nan = saved(tmp_path / "f.safetensors", w=broken)
    with pytest.raises(SparseError, match=r"w in .*NaN or infinity"):
        pack_file(nan, tmp_path / "g.safetensors", values="int8")
    (tmp_path / "h.safetensors").write_bytes(source.read_bytes()[:-1])
    with pytest.raises(SparseError, match="its header describes"):
        pack_file(tmp_path / "h.safetensors", tmp_path / "i.safetensors", values="float32")
    (tmp_path / "j.safetensors").write_bytes(b"no file")
    with pytest.raises(SparseError, match="is no safetensors file"):
        pack_file(tmp_path / "j.safetensors", tmp_path / "k.safetensors", values="float32")
    assert not {path.name for path in tmp_path.iterdir()} & {f"{one}.safetensors" for one in "cegik"}


def changed(path: Path, change: dict[str, str] | None = None, **tensors: Tensor) -> Path:
    """A packed file with other metadata or other tensors."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() | (change or {})
    save_file(load_file(path) | tensors, path, metadata=metadata)
    return path


def test_parts_that_do_not_fit_each_other_are_named(tmp_path: Path) -> None:
    source = saved(tmp_path / "a.safetensors", w=random_weight((24, 203)))
    path = tmp_path / "b.safetensors"

    def packed() -> Path:
        pack_file(source, path, values="float32")
        return path

    parts = load_file(packed())
    with pytest.raises(SparseError, match=r"tensor w\.bits .* should be \('U8', \(24, 26\)\)"):
        SparseFile(changed(packed(), **{"w.bits": parts["w.bits"][:-1].contiguous()}))
    with pytest.raises(SparseError, match=r"w in .*: \d+ bits are set, but there are \d+ values"):
        SparseFile(changed(packed(), **{"w.values": parts["w.values"][:-1].contiguous()})).packed("w")
    beyond = parts["w.bits"].clone()
    beyond[0, -1] |= 0x80
    with pytest.raises(SparseError, match="bits are set after the last column"):
        SparseFile(changed(packed(), **{"w.bits": beyond})).packed("w")
    with pytest.raises(SparseError, match=r"tensor stray .* should be not there"):
        SparseFile(changed(packed(), stray=torch.ones(1)))
    with pytest.raises(SparseError, match="format version '2', and this Secateur reads 1"):
        SparseFile(changed(packed(), {"format_version": "2"}))
    with pytest.raises(SparseError, match="values 'int4'; allowed: float32, bf16, int8"):
        SparseFile(changed(packed(), {"values": "int4"}))
    with pytest.raises(SparseError, match=r"the header of the ordinary file in .* cannot be read"):
        SparseFile(changed(packed(), {"header": "[]"}))


def test_tensors_lie_aligned(tmp_path: Path) -> None:
    """Readers map tensors from the file, and some processors read no float32 at an odd address."""
    source = saved(
        tmp_path / "a.safetensors", w=random_weight(ODD, sparsity=0.8), v=random_weight(ODD, sparsity=0.6)
    )
    path = tmp_path / "b.safetensors"
    pack_file(source, path, values="float32")
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    widths = {"F32": 4, "BF16": 2, "U8": 1}
    for name, one in json.loads(data[8 : 8 + size]).items():
        if name != "__metadata__":
            assert (8 + size + one["data_offsets"][0]) % widths[one["dtype"]] == 0
