"""`python -m workers.local.import_gguf FILE OUT_DIR` converts a GGUF file to a safetensors checkpoint."""

import argparse
from pathlib import Path

from pipeline.checkpoint.gguf import convert_gguf
from workers.local.refusal import refusing


def main() -> None:
    """Convert a file. Exit codes: 0 converted, 1 refused (the reason is the last line of standard error)."""
    parser = argparse.ArgumentParser(
        prog="python -m workers.local.import_gguf", description="Convert a GGUF file."
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("directory", type=Path, help="must not exist")
    arguments = parser.parse_args()
    with refusing():
        convert_gguf(arguments.file, arguments.directory)


if __name__ == "__main__":
    main()
