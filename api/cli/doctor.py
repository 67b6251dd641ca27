"""`secateur doctor` says what works for a checkpoint on this machine."""

import subprocess
from pathlib import Path
from typing import Annotated

import typer

from api.cli.local import child_environment, module_command, require_worker


def doctor(
    directory: Annotated[Path, typer.Argument(help="Hugging Face checkpoint.", exists=True, file_okay=False)],
) -> None:
    """Say what works for a checkpoint, what does not, and why; propose a row for an unknown type.

    The exit code is 0 if it can be pruned, and 1 if not.
    """
    require_worker()
    command = module_command("workers.local.doctor", str(directory))
    done = subprocess.run(command, env=child_environment(), check=False)
    raise typer.Exit(min(abs(done.returncode), 1))
