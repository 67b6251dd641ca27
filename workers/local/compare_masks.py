"""`python -m workers.local.compare_masks A B` prints how far two files of masks agree, linear by linear."""

import argparse
import re
import sys
from pathlib import Path

from pipeline.masks.file import MaskFile, find_masks
from pipeline.masks.overlap import compared
from workers.local.refusal import refusing


def main() -> None:
    """Compare masks. Exit codes: 0 printed, 1 refused (the reason is the last line of standard error)."""
    parser = argparse.ArgumentParser(
        prog="python -m workers.local.compare_masks", description="Compare masks."
    )
    parser.add_argument("ours", type=Path, metavar="A", help="a file of masks, or a published checkpoint")
    parser.add_argument("theirs", type=Path, metavar="B")
    arguments = parser.parse_args()
    with refusing():
        ours, theirs = (MaskFile(find_masks(path)) for path in (arguments.ours, arguments.theirs))
        _print(ours, theirs)


def _print(ours: MaskFile, theirs: MaskFile) -> None:
    """Print a line for each mask, in the order of the blocks, and the mean."""
    width = max(len(name) for name in ("mean of all linears", *ours.entries))
    sys.stdout.write(f"{'tensor':{width}}  same groups  kept by both\n")
    by_block = sorted(compared(ours, theirs), key=lambda one: _numbers(one[0]))
    for name, group, found in by_block:
        of_weights = "" if group > 1 else "  (weights, not groups)"
        sys.stdout.write(f"{name:{width}}  {found.groups:11.4f}  {found.kept:12.4f}{of_weights}\n")
    count = max(len(by_block), 1)
    groups = sum(found.groups for _, _, found in by_block) / count
    kept = sum(found.kept for _, _, found in by_block) / count
    sys.stdout.write(f"{'mean of all linears':{width}}  {groups:11.4f}  {kept:12.4f}\n")


def _numbers(name: str) -> list[tuple[int, str]]:
    """A key that sorts block 10 behind block 9."""
    parts = re.split(r"([0-9]+)", name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


if __name__ == "__main__":
    main()
