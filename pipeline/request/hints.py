"""This module turns pydantic's errors into sentences that name the field, the value, and what is allowed."""

import difflib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from pipeline.request.prune_spec import JobRequest
from pipeline.request.schema import request_schema

SHOWN = 80
Loc = Sequence[str | int]
Schema = dict[str, Any]


def explained(
    problem: Mapping[str, Any], body: object, *, model: type[BaseModel] = JobRequest
) -> tuple[str, str]:
    """Return the dotted path of the field and a sentence about it. `model`: the model that the body should
    follow."""
    loc = problem["loc"]
    path = _without_tags(loc[1:], body) if loc[0] == "body" else list(loc[1:])
    if problem["type"] in ("union_tag_invalid", "union_tag_not_found"):
        path = [*path, problem["ctx"]["discriminator"].strip("'")]
    param = ".".join(str(part) for part in path)
    return param, f"{param or 'the body'} {_sentence(problem, path, body, request_schema(model))}"


def suggestion(got: object, allowed: Sequence[str]) -> str:
    """Return `; did you mean 'wanda'?` when an allowed name is close, else an empty string."""
    near = difflib.get_close_matches(str(got), allowed, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _sentence(problem: Mapping[str, Any], path: Loc, body: object, schema: Schema) -> str:
    got, context = problem.get("input"), problem.get("ctx", {})
    match problem["type"]:
        case "missing":
            return "is missing"
        case "extra_forbidden":
            allowed = [name for name in _fields_at(path[:-1], body, schema) if name != path[-1]]
            listing = f"; allowed here: {', '.join(allowed)}" if allowed else ""
            return f"is not a known field{suggestion(path[-1], allowed)}{listing}"
        case "union_tag_invalid":
            allowed = [tag.strip(" '") for tag in context["expected_tags"].split(",")]
            return (
                f"is unknown: got {_shown(context['tag'])}{suggestion(context['tag'], allowed)}; allowed: "
                + (", ".join(allowed))
            )
        case "union_tag_not_found":
            allowed = _kinds_at(path[:-1], body, schema)
            return f"is missing; it says which one is meant{': ' + ', '.join(allowed) if allowed else ''}"
        case "literal_error":
            allowed = [part.strip(" '") for part in context["expected"].replace(" or ", ", ").split(",")]
            return f"got {_shown(got)}{suggestion(got, allowed)}; allowed: {', '.join(allowed)}"
        case "value_error":
            return str(problem["msg"]).removeprefix("Value error, ").join(("is refused: ", ""))
        case _:
            message = str(problem["msg"])
            return f"is refused: {message[:1].lower()}{message[1:]}; got {_shown(got)}"


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    text = json.dumps(value, default=str)
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."


def _without_tags(loc: Loc, body: object) -> list[str | int]:
    """The path without the names of union members that pydantic puts between the fields."""
    path: list[str | int] = []
    here = body
    for index, part in enumerate(loc):
        if isinstance(part, str) and " " in part and not (isinstance(here, dict) and part in here):
            continue  # a tag of a union without a field that tells
        if isinstance(here, dict) and part not in here and part in (here.get("kind"), here.get("type")):
            if index < len(loc) - 1 or not isinstance(part, str):
                continue
            return path
        path.append(part)
        here = _inside(here, part)
    return path


def _inside(value: object, part: str | int) -> object:
    if isinstance(value, dict):
        return value.get(part)
    if isinstance(value, list) and isinstance(part, int) and 0 <= part < len(value):
        return value[part]
    return None


def _fields_at(path: Loc, body: object, schema: Schema) -> list[str]:
    """Names of the fields that the object at `path` may have."""
    return [name for node in _nodes_at(path, body, schema) for name in node.get("properties", {})]


def _kinds_at(path: Loc, body: object, schema: Schema) -> list[str]:
    """Names of the members of the union at `path`."""
    nodes, here = [schema], body
    for part in path:
        nodes = [inner for node in nodes for inner in _below(node, part, here, schema)]
        here = _inside(here, part)
    return [name for node in nodes for name in node.get("discriminator", {}).get("mapping", {})]


def _nodes_at(path: Loc, body: object, schema: Schema) -> list[Schema]:
    nodes, here = [schema], body
    for part in path:
        nodes = [inner for node in nodes for inner in _below(node, part, here, schema)]
        here = _inside(here, part)
    return [inner for node in nodes for inner in _members(node, here, schema)]


def _below(node: Schema, part: str | int, value: object, schema: Schema) -> list[Schema]:
    found = []
    for member in _members(node, value, schema):
        inner = member.get("items") if isinstance(part, int) else member.get("properties", {}).get(part)
        if inner is not None:
            found.append(inner)
    return found


def _members(node: Schema, value: object, schema: Schema) -> list[Schema]:
    """The plain schemas behind references and unions; a tagged union gives the member whose kind is named."""
    if "$ref" in node:
        return _members(schema["$defs"][node["$ref"].rsplit("/", 1)[-1]], value, schema)
    if "discriminator" in node:
        kind = value.get("kind") if isinstance(value, dict) else None
        reference = node["discriminator"]["mapping"].get(kind) if isinstance(kind, str) else None
        return _members({"$ref": reference}, value, schema) if reference else []
    members = node.get("anyOf", node.get("oneOf"))
    if members is not None:
        return [inner for member in members for inner in _members(member, value, schema)]
    return [node]
