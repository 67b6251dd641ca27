"""The provenance of a published directory: the job that made it, its inputs, code, machine and durations.

It is an in-toto statement (https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md) with the
predicate of SLSA (https://slsa.dev/spec/v1.0/provenance), so that tools of others can read it. Its subjects
are the published files, the manifest among them. Durations differ between equal jobs, so it lies beside the
files of the manifest, and is none of them.
"""

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Literal
from urllib.parse import quote

from pydantic import ConfigDict, Field, JsonValue
from pydantic.alias_generators import to_camel

from pipeline.artifacts.environment import Code
from pipeline.artifacts.manifest import Manifest
from pipeline.artifacts.refs import ManifestRef
from pipeline.canonical import Frozen
from pipeline.job.ledger import NodeResult
from pipeline.report.data import ReportData
from pipeline.request.resources import Resources
from pipeline.sources.pins import MODEL, TEACHER, PinnedFile

BUILD_TYPE = "urn:x-secateur:job:v1"
BUILDER = "urn:x-secateur:worker"
IMPORTS = {MODEL: "import_model", TEACHER: "import_teacher"}  # by the field of the source
# The names of in-toto's digests by the beginning of a pinned file's tag. Other tags are no digests.
DIGESTS = {"sha256": "sha256", "git": "gitBlob", "commit": "gitCommit"}


class _Part(Frozen):
    """A part of the statement, which spells its fields as the standards do."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        alias_generator=to_camel,
        validate_by_name=True,
        serialize_by_alias=True,
    )


class Resource(_Part):
    """A ResourceDescriptor: something by its name, address and digests."""

    name: str | None = None
    uri: str | None = None
    digest: dict[str, str] | None = None
    annotations: dict[str, JsonValue] | None = None


class BuildDefinition(_Part):
    """The inputs. `external_parameters`: what the user asked for; `internal_parameters`: the facts of the
    place where it ran; `resolved_dependencies`: sources, code and packages."""

    build_type: str = BUILD_TYPE
    external_parameters: dict[str, JsonValue]
    internal_parameters: dict[str, JsonValue]
    resolved_dependencies: tuple[Resource, ...]


class Builder(_Part):
    """The program that did the work."""

    id: str = BUILDER
    version: dict[str, str]


class Metadata(_Part):
    """The job, and the time at which it had done everything but its report."""

    invocation_id: str | None
    finished_on: datetime


class RunDetails(_Part):
    """The work. `byproducts`: the artifacts of every stage with the seconds that it took."""

    builder: Builder
    metadata: Metadata
    byproducts: tuple[Resource, ...]


class Predicate(_Part):
    """SLSA's provenance."""

    build_definition: BuildDefinition
    run_details: RunDetails


class Statement(_Part):
    """Content of `provenance.json`."""

    type: Literal["https://in-toto.io/Statement/v1"] = Field(
        default="https://in-toto.io/Statement/v1", alias="_type"
    )
    subject: tuple[Resource, ...]
    predicate_type: Literal["https://slsa.dev/provenance/v1"] = "https://slsa.dev/provenance/v1"
    predicate: Predicate

    def to_json(self) -> bytes:
        """The bytes of the file, indented."""
        plain = self.model_dump(mode="json", exclude_none=True)
        return (json.dumps(plain, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def provenance(
    data: ReportData,
    *,
    manifest: ManifestRef,
    listed: Manifest,
    code: Code,
    resources: Resources,
    finished: datetime,
) -> Statement:
    """The statement about what a job has published. `listed`: the content of the manifest."""
    environment = data.environment
    own = manifest.path_of(Manifest)
    subjects = {entry.path: entry.sha256 for entry in listed.files} | {own: manifest.file(own).digest}
    return Statement(
        subject=tuple(Resource(name=path, digest={"sha256": digest}) for path, digest in subjects.items()),
        predicate=Predicate(
            build_definition=BuildDefinition(
                external_parameters={
                    "spec": data.spec.model_dump(mode="json"),
                    "resources": resources.model_dump(mode="json"),
                },
                internal_parameters={
                    "seeds": dict(data.seeds),
                    "machine": {
                        "cpuModel": environment.cpu_model,
                        "cores": environment.cores,
                        "threadsPerWorker": environment.threads,
                        "memoryBytes": environment.memory_bytes,
                        "gpus": list(environment.gpus),
                    },
                },
                resolved_dependencies=(*_sources(data), *_software(code, environment.versions)),
            ),
            run_details=RunDetails(
                builder=Builder(version={"secateur": code.version}),
                metadata=Metadata(invocation_id=data.job, finished_on=finished),
                byproducts=tuple(_byproducts(data.stages)),
            ),
        ),
    )


def names_manifest(statement: bytes, manifest: ManifestRef) -> bool:
    """Tells whether the bytes are a statement about this very manifest."""
    own = manifest.path_of(Manifest)
    subject = Resource(name=own, digest={"sha256": manifest.file(own).digest})
    try:
        return subject in Statement.model_validate_json(statement).subject
    except ValueError:
        return False


def _sources(data: ReportData) -> Iterator[Resource]:
    """Every file of every source, with its digest where the pin has one, or its import has computed it."""
    for field, pin in data.pins.sources.items():
        imported = _imported(data.stages, IMPORTS.get(field))
        for file in pin.files:
            kind, _, value = file.tag.partition(":")
            digest = {DIGESTS[kind]: value} if kind in DIGESTS else imported.get((file.path, file.size))
            yield Resource(
                name=f"{field}/{file.path}",
                uri=quote(pin.source, safe=":/@"),
                digest=digest,
                annotations={"size": file.size} if digest is not None else _tagged(file),
            )


def _tagged(file: PinnedFile) -> dict[str, JsonValue]:
    """What is known about a file of which nobody computed a digest."""
    return {"size": file.size, "tag": file.tag}


def _imported(stages: tuple[NodeResult, ...], node: str | None) -> Mapping[tuple[str, int], dict[str, str]]:
    """The digests of the files that an import has copied, by path and size."""
    return {
        (file.path, file.blob.size): {"sha256": file.blob.digest}
        for result in stages
        if result.node == node
        for artifact in result.artifacts.values()
        for file in artifact.files
    }


def _software(code: Code, versions: Mapping[str, str]) -> Iterator[Resource]:
    commit: dict[str, JsonValue] = {} if code.commit is None else {"gitCommit": code.commit}
    yield Resource(
        name="secateur",
        uri=f"pkg:pypi/secateur@{quote(code.version, safe='')}",
        digest={"sha256": code.sha256},
        annotations=commit or None,
    )
    for name, version in versions.items():
        if name != "secateur":
            kind = "generic" if name == "python" else "pypi"
            yield Resource(name=name, uri=f"pkg:{kind}/{name.replace('_', '-')}@{quote(version, safe='')}")


def _byproducts(stages: tuple[NodeResult, ...]) -> Iterator[Resource]:
    for result in stages:
        for name, artifact in result.artifacts.items():
            yield Resource(
                name=f"{result.node}/{name}",
                digest={"sha256": artifact.digest},
                annotations={
                    "stageKey": result.key,
                    "seconds": result.measured.seconds,
                    "fromCache": result.cached,
                },
            )
