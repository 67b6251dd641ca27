"""Checks JSON against in-toto's Statement v1 and SLSA's Provenance v1, field by field, from their texts."""

import re
from datetime import datetime
from typing import Any

URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[!-~]+")  # RFC 3986: a scheme, and no spaces or other alphabets
HEX = re.compile(r"[0-9a-f]+")
PREDICATE = {"buildDefinition", "runDetails"}
DEFINITION = {"buildType", "externalParameters", "internalParameters", "resolvedDependencies"}
DETAILS = {"builder", "metadata", "byproducts"}
BUILDER = {"id", "builderDependencies", "version"}
METADATA = {"invocationId", "startedOn", "finishedOn"}
RESOURCE = {"name", "uri", "digest", "content", "downloadLocation", "mediaType", "annotations"}


def check_statement(statement: Any) -> None:
    """Fails for a document that a reader of the standards would refuse."""
    assert statement.keys() == {"_type", "subject", "predicateType", "predicate"}
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["subject"], "at least one subject"
    for subject in statement["subject"]:
        check_resource(subject)
        assert subject["digest"], "a subject needs a digest"
    names = [subject["name"] for subject in statement["subject"]]
    assert len(names) == len(set(names)), "names tell subjects apart"
    assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
    check_provenance(statement["predicate"])


def check_provenance(predicate: Any) -> None:
    """SLSA's predicate, required fields first."""
    assert predicate.keys() == PREDICATE
    definition, details = predicate["buildDefinition"], predicate["runDetails"]
    assert {"buildType", "externalParameters"} <= definition.keys() <= DEFINITION
    assert URI.fullmatch(definition["buildType"])
    assert isinstance(definition["externalParameters"], dict)
    assert isinstance(definition.get("internalParameters", {}), dict)
    assert {"builder"} <= details.keys() <= DETAILS
    assert {"id"} <= details["builder"].keys() <= BUILDER
    assert URI.fullmatch(details["builder"]["id"])
    assert all(isinstance(one, str) for one in details["builder"].get("version", {}).values())
    metadata = details.get("metadata", {})
    assert metadata.keys() <= METADATA
    for moment in ("startedOn", "finishedOn"):
        if moment in metadata:
            assert metadata[moment].endswith("Z"), "timestamps of SLSA are in UTC"
            datetime.fromisoformat(metadata[moment])
    for resource in (*definition.get("resolvedDependencies", ()), *details.get("byproducts", ())):
        check_resource(resource)


def check_resource(resource: Any) -> None:
    """A ResourceDescriptor has one of uri, digest and content."""
    assert resource.keys() <= RESOURCE
    assert resource.keys() & {"uri", "digest", "content"}, resource
    assert "uri" not in resource or URI.fullmatch(resource["uri"]), resource
    for algorithm, value in resource.get("digest", {}).items():
        assert HEX.fullmatch(value), (algorithm, value)
    assert len(resource.get("digest", {}).get("sha256", "0" * 64)) == 64
    assert isinstance(resource.get("annotations", {}), dict)
