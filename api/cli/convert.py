"""`secateur convert` converts checkpoints between Hugging Face and Megatron on this machine."""

import subprocess
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from api.cli.local import child_environment, module_command, require_worker


class Layout(StrEnum):
    """The layouts that can be written."""

    HF = "hf"
    TORCH_DIST = "torch_dist"
    MP_RANK = "mp_rank"


class Implementation(StrEnum):
    """Megatron's --transformer-impl, by which `mp_rank` names its norms."""

    TRANSFORMER_ENGINE = "transformer_engine"
    LOCAL = "local"


def convert(
    source: Annotated[
        Path,
        typer.Argument(
            help="A checkpoint's directory; its layout is detected.", exists=True, file_okay=False
        ),
    ],
    directory: Annotated[Path, typer.Argument(metavar="OUT", help="Directory to write; must not exist.")],
    to: Annotated[Layout, typer.Option(help="Layout to write.")],
    tensor_parallel: Annotated[int, typer.Option(min=1, help="Ranks that share each block.")] = 1,
    transformer_impl: Annotated[
        Implementation, typer.Option(help="Megatron's layers that will load it.")
    ] = Implementation.TRANSFORMER_ENGINE,
    config: Annotated[
        Path | None,
        typer.Option(help="config.json, or a directory with one, if the source has none."),
    ] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="Directory whose tokenizer is copied.")] = None,
) -> None:
    """Convert a checkpoint between Hugging Face, Megatron's torch_dist and mp_rank, tensor by tensor."""
    require_worker()
    options = ["--to", to, "--tensor-parallel", str(tensor_parallel), "--transformer-impl", transformer_impl]
    options += ["--config", str(config)] if config else []
    options += ["--tokenizer", str(tokenizer)] if tokenizer else []
    done = subprocess.run(
        module_command("workers.local.convert", str(source), str(directory), *options),
        env=child_environment(),
        check=False,
    )
    raise typer.Exit(min(abs(done.returncode), 1))
