"""Spec files as people write them: YAML or JSON, overrides, and sources relative to the file."""

import json
import sys
from pathlib import Path

import yaml
from pydantic import JsonValue, ValidationError

from pipeline.errors import InvalidSpec
from pipeline.plain_yaml import read_yaml
from pipeline.request.hints import explained
from pipeline.request.prune_spec import JobRequest
from pipeline.spec.uri import file_uri

Document = dict[str, JsonValue]


class SpecError(InvalidSpec):
    """A spec file that cannot be used. `param` is the field at fault, if there is one."""


def load_document(name: str, overrides: list[str]) -> Document:
    """Read the body of POST /jobs from a file, or from standard input for `-`. The service checks its fields.

    `overrides`: `path.to.field=value`, values in YAML. Relative `file:` sources start at the spec's
    directory.
    """
    text, directory = _read(name)
    document = _parsed(text, name)
    for override in overrides:
        _set(document, override)
    return located(document, directory)


def located(document: Document, directory: Path) -> Document:
    """The document with relative `file:` sources made absolute, starting at a directory."""
    found = _located(document, directory)
    assert isinstance(found, dict), "a mapping stays one"
    return found


def load_fields(path: Path | None, overrides: list[str]) -> Document:
    """Read a part of a spec from a file, if one is given, and from overrides `path.to.field=value`."""
    fields: Document = {}
    if path is not None:
        text, _ = _read(str(path))
        fields = _parsed(text, str(path))
    for override in overrides:
        _set(fields, override)
    return fields


def checked(document: Document) -> JobRequest:
    """Check a request without a service. Raises SpecError with the sentence that the service would answer."""
    try:
        return JobRequest.model_validate_json(json.dumps(document))
    except ValidationError as error:
        problem = error.errors()[0]
        param, sentence = explained({**problem, "loc": ("body", *problem["loc"])}, document)
        raise SpecError(sentence, param or None) from None


def _read(name: str) -> tuple[str, Path]:
    if name == "-":
        return sys.stdin.read(), Path.cwd()
    path = Path(name)
    try:
        return path.read_text(encoding="utf-8"), path.absolute().parent
    except OSError as error:
        raise SpecError(f"cannot read {name}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SpecError(f"{name} is not a text in UTF-8") from None


def _parsed(text: str, name: str) -> Document:
    try:
        value = json.loads(json.dumps(_json_or_yaml(text), allow_nan=False))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise SpecError(f"{name} is neither YAML nor JSON: {' '.join(str(error).split())}") from None
    except TypeError as error:
        raise SpecError(
            f"{name} holds a value that JSON has no word for ({error}); put it in quotes"
        ) from None
    if not isinstance(value, dict):
        raise SpecError(f"{name} must be a mapping with `spec:` at its top, got {type(value).__name__}")
    return value


def _json_or_yaml(text: str) -> object:
    """Parse JSON first, because it may be indented with tabs and reads 1e-3 as a number, then YAML."""
    try:
        return json.loads(text)
    except ValueError:
        return read_yaml(text)


def _set(document: Document, override: str) -> None:
    path, equals, text = override.partition("=")
    if not equals or not path or "" in path.split("."):
        raise SpecError(f"--set got {override!r}; write path.to.field=value")
    *parents, last = path.split(".")
    here: JsonValue = document
    for part in parents:
        here = _child(here, part, path)
    value = _scalar(text, path)
    if isinstance(here, dict):
        here[last] = value
    elif isinstance(here, list) and last.isdigit() and int(last) < len(here):
        here[int(last)] = value
    else:
        raise SpecError(f"--set {path}: {last!r} is not a place in the spec", path)


def _child(here: JsonValue, part: str, path: str) -> JsonValue:
    if isinstance(here, dict):
        return here.setdefault(part, {})
    if isinstance(here, list) and part.isdigit() and int(part) < len(here):
        return here[int(part)]
    raise SpecError(f"--set {path}: {part!r} is not a place in the spec", path)


def _scalar(text: str, path: str) -> JsonValue:
    try:
        value: JsonValue = json.loads(json.dumps(_json_or_yaml(text), allow_nan=False))
    except (ValueError, TypeError, RecursionError, yaml.YAMLError):
        raise SpecError(f"--set {path}: {text!r} is no value; put it in quotes", path) from None
    return value


def _located(value: JsonValue, directory: Path) -> JsonValue:
    if isinstance(value, dict):
        return {
            name: _absolute(inner, directory)
            if name in ("source", "include") and isinstance(inner, str)
            else _located(inner, directory)
            for name, inner in value.items()
        }
    if isinstance(value, list):
        return [_located(inner, directory) for inner in value]
    return value


def _absolute(source: str, directory: Path) -> str:
    rest = source.removeprefix("file:")
    if rest == source or not rest or rest.startswith("/"):
        return source
    return file_uri(directory / Path(rest).expanduser())
