"""Commands that change the size of a checkpoint on this machine."""

import json
import subprocess
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from api.cli_local import child_environment, module_command, require_worker
from api.cli_spec import SpecError, load_fields
from api.hints import explained
from pipeline.structure.spec import Structure
from pipeline.texts import Calibration


def slice_checkpoint(
    directory: Annotated[Path, typer.Argument(help="Hugging Face checkpoint.", exists=True, file_okay=False)],
    out: Annotated[Path | None, typer.Argument(help="Where the smaller one goes.")] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="A field of `structure` in a spec, such as hidden_size=448; may be repeated."
        ),
    ] = None,
    structure: Annotated[Path | None, typer.Option(help="The same as a YAML or JSON file.")] = None,
    calibration: Annotated[
        Path | None, typer.Option(help="Text for criteria that measure activations.", exists=True)
    ] = None,
    samples: Annotated[int, typer.Option(help="Calibration samples.")] = 16,
    sequence_length: Annotated[int, typer.Option(help="Tokens of each.")] = 512,
    plan: Annotated[
        bool, typer.Option("--plan", help="Print sizes and weights; read config.json only.")
    ] = False,
) -> None:
    """Cut hidden size, heads, FFN, experts and depth of a checkpoint, without a cluster.

    secateur slice model smaller --set intermediate_size=1024 --set criterion.kind=magnitude
    """
    require_worker()
    if out is None and not plan:
        raise SpecError("name a directory that is to be made, or --plan")
    fields = load_fields(structure, overrides or [])
    try:
        asked = Structure.model_validate_json(json.dumps(fields))
    except ValidationError as error:
        problem = error.errors()[0]
        param, sentence = explained({**problem, "loc": ("body", *problem["loc"])}, fields, model=Structure)
        raise SpecError(sentence, param or None) from None
    arguments = [str(directory), *([] if out is None else [str(out)]), "--structure", asked.model_dump_json()]
    if calibration is not None:
        text = Calibration(
            source=f"file:{calibration.absolute()}", samples=samples, sequence_length=sequence_length
        )
        arguments += ["--calibration", text.model_dump_json()]
    command = module_command("workers.slice", *arguments, *(["--plan"] if plan else []))
    done = subprocess.run(command, env=child_environment(), check=False)
    raise typer.Exit(min(abs(done.returncode), 1))
