"""`python -m workers.local.import_gguf FILE OUT_DIR` converts a GGUF file to a safetensors checkpoint."""

import argparse
import sys
from pathlib import Path

from pipeline.checkpoint.gguf import convert_gguf
from pipeline.errors import SecateurError


def main() -> None:
    """Convert a file. Exit codes: 0 converted, 1 refused (the reason is the last line of standard error)."""
    parser = argparse.ArgumentParser(
        prog="python -m workers.local.import_gguf", description="Convert a GGUF file."
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("directory", type=Path, help="must not exist")
    arguments = parser.parse_args()
    try:
        convert_gguf(arguments.file, arguments.directory)
    except SecateurError as error:
        sys.stderr.write(f"{error.message}\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
