"""Commands for files of masks on this machine."""

import subprocess
from pathlib import Path
from typing import Annotated

import typer

from api.cli.local import child_environment, module_command, require_worker

MASKS = "File of masks, or a published checkpoint that has masks/masks.safetensors."


def apply_mask(
    dense: Annotated[
        Path,
        typer.Argument(
            help="Hugging Face checkpoint that the masks were made for.", exists=True, file_okay=False
        ),
    ],
    masks: Annotated[Path, typer.Argument(help=MASKS, exists=True)],
    out: Annotated[Path, typer.Argument(help="Directory for the pruned one; must not exist.")],
    other_weights: Annotated[
        bool,
        typer.Option("--other-weights", help="Apply masks to weights that they were not made for, too."),
    ] = False,
) -> None:
    """Make an ordinary checkpoint of a dense one and its masks, tensor by tensor.

    secateur apply-mask model masks.safetensors pruned
    """
    options = ["--other-weights"] if other_weights else []
    _in_worker("workers.local.apply_masks", str(dense), str(masks), str(out), *options)


def compare_masks(
    ours: Annotated[Path, typer.Argument(metavar="A", help=MASKS, exists=True)],
    theirs: Annotated[Path, typer.Argument(metavar="B", help="The same.", exists=True)],
) -> None:
    """Print how far two files of masks agree, linear by linear."""
    _in_worker("workers.local.compare_masks", str(ours), str(theirs))


def _in_worker(module: str, *arguments: str) -> None:
    require_worker()
    done = subprocess.run(module_command(module, *arguments), env=child_environment(), check=False)
    raise typer.Exit(min(abs(done.returncode), 1))
