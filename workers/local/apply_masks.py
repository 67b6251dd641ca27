"""`python -m workers.local.apply_masks DENSE MASKS OUT` writes a checkpoint with the zeros of a file of
masks."""

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from pipeline.masks.apply import Applied, apply_masks
from pipeline.masks.file import MaskFile, find_masks
from workers.local.refusal import refusing


def main() -> None:
    """Apply masks. Exit codes: 0 written, 1 refused (the reason is the last line of standard error)."""
    parser = argparse.ArgumentParser(prog="python -m workers.local.apply_masks", description="Apply masks.")
    parser.add_argument("dense", type=Path, help="a Hugging Face checkpoint")
    parser.add_argument("masks", type=Path, help="a file of masks, or a published checkpoint with one")
    parser.add_argument("out", type=Path, help="must not exist")
    parser.add_argument("--other-weights", action="store_true")
    arguments = parser.parse_args()
    with refusing(), Progress(console=Console(stderr=True), transient=True) as progress:
        count = len(MaskFile(find_masks(arguments.masks)).entries)
        task = progress.add_task("masks", total=count)
        for step in apply_masks(
            arguments.dense, arguments.masks, arguments.out, other_weights=arguments.other_weights
        ):
            if isinstance(step, int):
                progress.update(task, completed=step)
            else:
                applied = step
    _print(applied, arguments.out)


def _print(applied: Applied, out: Path) -> None:
    tensors = len(applied.certificate.tensors)
    sys.stdout.write(
        f"{out}: {applied.held:,} of {applied.weights:,} weights in {tensors} tensors are zero\n"
    )
    for sentence in applied.remarks:
        sys.stderr.write(f"note: {sentence}\n")
    if applied.unknown:
        sys.stderr.write(
            f"note: {applied.unknown} masks do not say which weights they were made for, so that it was not "
            f"checked whether these are the ones\n"
        )
    if applied.others:
        sys.stderr.write(
            f"warning: {len(applied.others)} tensors are not the weights that their masks were made for, "
            f"such as {applied.others[0]}\n"
        )


if __name__ == "__main__":
    main()
