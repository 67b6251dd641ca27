"""Directories of packed weights: a checkpoint whose safetensors files are packed one by one, with all that a
model needs to run.

A packed file has the name of the ordinary one, and the weight index stays as it was: it tells the file of
NAME, in which NAME or its parts lie. So packing and unpacking go file by file.
"""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from secateur.sparse.errors import SparseError
from secateur.sparse.files import PackedFile, Values, is_packed, pack_file, unpack_file

FOLDER = "sparse"  # beside an ordinary checkpoint
WEIGHTS, INDEX, CONFIG = "model.safetensors", "model.safetensors.index.json", "config.json"
WEIGHT_ENDINGS = (
    ".safetensors",
    ".bin",
    ".pt",
    ".pth",
    ".ckpt",
    ".gguf",
    ".onnx",
    ".data",
    ".h5",
    ".msgpack",
)
# transformers knows no packed weights: it would fill their places at random, with a warning. With this field
# in config.json it refuses them, and says why.
GUARD = (
    b'{\n  "transformers_weights": "packed by Secateur; open them with secateur.sparse.load, or make an '
    b'ordinary checkpoint with secateur unpack",'
)
BESIDE_BYTES = 32 * 2**20  # the most of a file that is carried; the largest tokenizer in use has 20 MB
TEMPLATES = "additional_chat_templates"  # the only folder that belongs to a tokenizer


@dataclass(frozen=True)
class PackedDirectory:
    """What `pack_directory` wrote: its files by name."""

    files: dict[str, PackedFile]

    @property
    def dense_bytes(self) -> int:
        """The size of the ordinary weights."""
        return sum(one.dense_bytes for one in self.files.values())

    @property
    def sparse_bytes(self) -> int:
        """The size of the packed weights."""
        return sum(one.sparse_bytes for one in self.files.values())

    @property
    def packed(self) -> int:
        """The number of packed matrices."""
        return sum(one.packed for one in self.files.values())

    @property
    def lossless(self) -> bool:
        """True if the ordinary files come back to the bit."""
        return all(one.lossless for one in self.files.values())


def pack_directory(
    directory: Path, out: Path, *, values: Values, group: int | None = None
) -> PackedDirectory:
    """Write the checkpoint in `directory` with packed weights into `out`, which must not exist.

    Raises SparseError for a directory that is no checkpoint in safetensors, and for one whose weights do not
    become smaller: then nothing is written.
    """
    files = weight_files(directory)
    if not (directory / CONFIG).is_file():
        raise SparseError(f"{directory} has no {CONFIG}: name the directory of a checkpoint")
    with _new_directory(out) as written:
        made = {}
        for name in files:
            (written / name).parent.mkdir(parents=True, exist_ok=True)
            made[name] = pack_file(directory / name, written / name, values=values, group=group)
        result = PackedDirectory(made)
        check_smaller(result, values)
        _carry(directory, written)
        config = written / CONFIG
        config.write_bytes(guarded(config.read_bytes()))
    return result


def guarded(config: bytes) -> bytes:
    """A config.json with which no library takes packed weights for ordinary ones."""
    start, brace, rest = config.partition(b"{")
    if not brace or start.strip():
        raise SparseError("config.json is no JSON object; correct it before the weights are packed")
    return start + GUARD + rest


def unguarded(config: bytes) -> bytes:
    """The config.json that was guarded, byte by byte."""
    return config.replace(GUARD, b"{", 1)


def check_smaller(made: PackedDirectory, values: Values) -> None:
    """Raises SparseError where packing did not make the weights smaller, with both sizes."""
    if made.packed == 0 or made.sparse_bytes >= made.dense_bytes:
        raise SparseError(
            f"packed with {values} values, {made.packed} matrices become smaller, and the weights take "
            f"{made.sparse_bytes:,} bytes, not less than the {made.dense_bytes:,} that they take now. A "
            f"matrix becomes smaller from about a tenth of zeros on with values of its own type, and from "
            f"about a half on with twice as wide ones"
        )


def unpack_directory(source: Path, out: Path, *, lossy: bool = False) -> None:
    """Write the ordinary checkpoint of a packed directory, or of one that has `sparse/`, into `out`; or the
    ordinary file of one packed file. `out` must not exist. Raises SparseError where not every bit comes back,
    unless `lossy`."""
    if source.is_file():
        if out.exists():
            raise SparseError(f"{out} exists; name a file that is to be made")
        unpack_file(source, out, lossy=lossy)
        return
    directory = packed_directory(source)
    if directory is None:
        raise SparseError(f"{source} has no packed weights, nor has {source / FOLDER}")
    with _new_directory(out) as written:
        for name in weight_files(directory):
            (written / name).parent.mkdir(parents=True, exist_ok=True)
            unpack_file(directory / name, written / name, lossy=lossy)
        _carry(directory, written)
        config = written / CONFIG
        config.write_bytes(unguarded(config.read_bytes()))


def packed_directory(directory: Path) -> Path | None:
    """The directory of packed weights that `directory` is, or has in `sparse/`; None if there is none."""
    for one in (directory, directory / FOLDER):
        if (one / CONFIG).is_file() and all(is_packed(one / name) for name in weight_files(one)):
            return one
    return None


def weight_files(directory: Path) -> list[str]:
    """The names of the safetensors files of a checkpoint. Raises SparseError where there are none."""
    if (directory / WEIGHTS).is_file():
        return [WEIGHTS]
    index = directory / INDEX
    if not index.is_file():
        raise SparseError(
            f"{directory} has neither {WEIGHTS} nor {INDEX}: name the directory of a checkpoint"
        )
    try:
        named = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise SparseError(f"{index} has no field weight_map of names and files") from error
    for name in named:
        if not (directory / name).resolve().is_relative_to(directory.resolve()):
            raise SparseError(f"{index} names {name}, which is not in this directory")
    return named


def _carry(directory: Path, out: Path) -> None:
    """Copy config, tokenizer, weight index and whatever else is small and no weights."""
    for path in sorted(directory.iterdir()):
        if path.name == TEMPLATES and path.is_dir():
            shutil.copytree(path, out / path.name)
        is_weights = path.name.endswith(WEIGHT_ENDINGS)
        if path.is_file() and not is_weights and path.stat().st_size <= BESIDE_BYTES:
            shutil.copyfile(path, out / path.name)


@contextmanager
def _new_directory(path: Path) -> Iterator[Path]:
    """A directory to fill, which appears as `path` if everything succeeds, and not at all otherwise."""
    if path.exists():
        raise SparseError(f"{path} exists; name a directory that is to be made")
    path.parent.mkdir(parents=True, exist_ok=True)
    written = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield written
        written.chmod(0o755)  # temporary directories are closed to others
        written.rename(path)
    finally:
        shutil.rmtree(written, ignore_errors=True)
