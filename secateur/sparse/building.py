"""Builds the native library at its first use, and keeps it.

The library is plain C++ behind a plain C interface, which Python calls by addresses. Including torch's
headers would make the build take a minute and tie it to one version of torch; so it takes seconds and needs
a compiler only. Built libraries lie in the user's cache directory under a digest of all that they depend on.
"""

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

SOURCES = Path(__file__).parent / "native"
COMPILERS = ("c++", "g++", "clang++")
FLAGS = (
    "-std=c++17",
    "-O3",
    "-fPIC",
    "-fno-exceptions",
    "-fno-rtti",
    "-ffp-contract=off",
    "-Wall",
    "-Wextra",
)
_AVX2 = ("-mavx2", "-mfma", "-mbmi", "-mbmi2", "-mpopcnt")
_AVX512 = tuple(f"-mavx512{part}" for part in ("f", "bw", "vl", "dq", "vbmi", "vbmi2", "vnni"))


def files_for(machine: str) -> dict[str, tuple[str, ...]]:
    """Each source, and the flags that it alone gets: the library is made for any CPU of an architecture, and
    chooses when it runs. `machine`: as `platform.machine` calls it."""
    x86 = machine in ("x86_64", "AMD64")
    return {
        "plain.cpp": (),
        "neon.cpp": (),
        "avx2.cpp": _AVX2 if x86 else (),
        "avx512.cpp": (*_AVX2, *_AVX512) if x86 else (),
        "product.cpp": ("-fopenmp",),
    }


FILES = files_for(platform.machine())


class NotBuilt(Exception):
    """The library cannot be built here: the reason, for a warning."""


def built(*, linked_openmp: bool) -> Path:
    """The library, built if this user has not built it before. Several processes may ask at once: one builds.

    `linked_openmp`: it is linked with the compiler's own OpenMP; otherwise the process must have loaded one.
    Raises NotBuilt.
    """
    compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
    if compiler is None:
        raise NotBuilt(f"there is no C++ compiler: none of {', '.join(COMPILERS)} is on the PATH")
    link = ("-fopenmp",) if linked_openmp else ()
    name = f"sparse-{_digest(compiler, link)}.so"
    try:
        directory = _directory()
        library = directory / name
        with (directory / "lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not library.exists():
                with tempfile.TemporaryDirectory(dir=directory, prefix="building-") as work:
                    os.replace(build(compiler, Path(work), link=link), library)
    except OSError as error:
        raise NotBuilt(f"the built library cannot be kept: {error}") from error
    return library


def build(
    compiler: str,
    work: Path,
    *,
    extra: Sequence[str] = (),
    link: Sequence[str] = (),
    files: Mapping[str, Sequence[str]] | None = None,
) -> Path:
    """Compiles all sources at once into `work`, with `extra` flags, and links them. `files`: those of another
    architecture, for its compiler. Raises NotBuilt with what the compiler said."""
    running = []
    for file, flags in (FILES if files is None else files).items():
        made = work / f"{file}.o"
        command = [compiler, *FLAGS, *flags, *extra, "-c", str(SOURCES / file), "-o", str(made)]
        running.append((made, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)))
    said = [process.communicate()[0].decode(errors="replace") for _, process in running]
    if any(process.returncode for _, process in running):
        raise NotBuilt(f"{compiler} failed: {' '.join(said).strip()[-2000:]}")
    library = work / "sparse.so"
    objects = [str(made) for made, _ in running]
    linked = subprocess.run(
        [compiler, "-shared", *extra, *objects, *link, "-o", str(library)],
        capture_output=True,
        text=True,
        check=False,
    )
    if linked.returncode:
        raise NotBuilt(f"{compiler} could not link: {linked.stderr.strip()[-2000:]}")
    return library


def _digest(compiler: str, link: tuple[str, ...]) -> str:
    digest = hashlib.sha256()
    version = subprocess.run([compiler, "--version"], capture_output=True, check=False).stdout
    digest.update(repr((compiler, version, FLAGS, FILES, link, platform.machine())).encode())
    for path in sorted(SOURCES.iterdir()):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:32]


def _directory() -> Path:
    """The cache directory. What lies there is run, so it must be this user's, and nobody else may write."""
    above = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    directory = Path(above) / "secateur"
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    state = directory.stat()
    if state.st_uid != os.geteuid():
        raise PermissionError(f"{directory} belongs to another user")
    if state.st_mode & 0o022:
        raise PermissionError(f"others may write to {directory}; take that right away with chmod go-w")
    return directory
