"""Commands that change the size of a checkpoint on this machine."""

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from pydantic import BaseModel, JsonValue, ValidationError

from api.cli.local import child_environment, module_command, require_worker
from pipeline.request.hints import explained
from pipeline.request.spec_files import SpecError, load_fields
from pipeline.spec.structure import Structure
from pipeline.spec.texts import Calibration
from pipeline.spec.uri import file_uri
from pipeline.spec.vocabulary import VocabularySize

Part = TypeVar("Part", bound=BaseModel)


def slice_checkpoint(
    directory: Annotated[Path, typer.Argument(help="Hugging Face checkpoint.", exists=True, file_okay=False)],
    out: Annotated[Path | None, typer.Argument(help="Directory for the smaller one.")] = None,
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
    sequence_length: Annotated[int, typer.Option(help="Tokens of each sample.")] = 512,
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
    if asked.vocabulary is not None and not plan:
        raise SpecError(
            "slice leaves the tokenizer as it is: run `secateur vocab` first, and slice what it made",
            "vocabulary",
        )
    arguments = [str(directory), *([] if out is None else [str(out)])]
    if calibration is not None:
        text: dict[str, JsonValue] = {
            "source": file_uri(calibration),
            "samples": samples,
            "sequence_length": sequence_length,
        }
        arguments += ["--calibration", _checked(Calibration, text).model_dump_json()]
    command = module_command("workers.local.slice", *arguments, *(["--plan"] if plan else []))
    given = asked.model_dump_json().encode()
    done = subprocess.run(command, input=given, env=child_environment(), check=False)
    raise typer.Exit(min(abs(done.returncode), 1))


def cut_vocabulary(
    directory: Annotated[Path, typer.Argument(help="Hugging Face checkpoint.", exists=True, file_okay=False)],
    out: Annotated[Path, typer.Argument(help="Directory for the smaller one.")],
    size: Annotated[int, typer.Option(help="Tokens to keep, with all that must stay.")],
    text: Annotated[
        list[Path],
        typer.Option(
            help="Corpus whose tokens are counted (.txt, .jsonl, .parquet, also with .gz or .zst); may be "
            "repeated.",
            exists=True,
        ),
    ],
    multiple_of: Annotated[int, typer.Option(help="Round the size up to a multiple of this.")] = 1,
    held_out: Annotated[
        Path | None,
        typer.Option(
            help="Text for the proof and tokens per byte; left out, documents of the corpus are held out.",
            exists=True,
        ),
    ] = None,
) -> None:
    """Keep the tokens that a corpus uses most, in the tokenizer and in the weights, and prove it.

    secateur vocab model smaller --size 32000 --text corpus.txt --multiple-of 64
    """
    require_worker()
    fields: dict[str, JsonValue] = {
        "size": size,
        "multiple_of": multiple_of,
        "texts": [_file_fields(path) for path in text],
    }
    if held_out is not None:
        fields["held_out"] = _file_fields(held_out)
    asked = _checked(VocabularySize, fields)
    arguments = [str(directory), str(out), "--vocabulary", asked.model_dump_json()]
    command = module_command("workers.local.vocabulary", *arguments)
    done = subprocess.run(command, env=child_environment(), check=False)
    raise typer.Exit(min(abs(done.returncode), 1))


def _file_fields(path: Path) -> dict[str, JsonValue]:
    return {"source": file_uri(path)}


def _checked(part: type[Part], fields: Mapping[str, JsonValue]) -> Part:
    """A part of a spec with these fields. Raises SpecError with the field and the sentence."""
    try:
        return part.model_validate_json(json.dumps(fields))
    except ValidationError as error:
        problem = error.errors()[0]
        raise SpecError(problem["msg"], ".".join(map(str, problem["loc"])) or None) from None
