"""`python -m workers.local.convert SOURCE OUT --to LAYOUT` converts a checkpoint to another layout."""

import argparse
import sys
from pathlib import Path
from typing import get_args

from pipeline.checkpoint.megatron.convert import Layout, convert
from pipeline.checkpoint.megatron.whole import Implementation
from workers.local.refusal import refusing


def main() -> None:
    """Convert a checkpoint. Exit codes: 0 converted, 1 refused (the reason is the last line of standard
    error)."""
    parser = argparse.ArgumentParser(
        prog="python -m workers.local.convert", description="Convert a checkpoint."
    )
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path, help="must not exist")
    parser.add_argument("--to", choices=get_args(Layout), required=True)
    parser.add_argument("--tensor-parallel", type=int, default=1)
    parser.add_argument("--transformer-impl", choices=get_args(Implementation), default="transformer_engine")
    parser.add_argument("--config", type=Path)
    parser.add_argument("--tokenizer", type=Path)
    arguments = parser.parse_args()
    with refusing():
        convert(
            arguments.source,
            arguments.out,
            to=arguments.to,
            tensor_parallel=arguments.tensor_parallel,
            implementation=arguments.transformer_impl,
            config=arguments.config,
            tokenizer=arguments.tokenizer,
            say=lambda sentence: sys.stderr.write(f"note: {sentence}\n"),
        )


if __name__ == "__main__":
    main()
