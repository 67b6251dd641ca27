"""Helm, KubeRay's schemas and the profiles, once for all tests of the chart."""

import gzip
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.charts import LOADER, PROFILES, ROOT, Helm, HelmError, Rendered, fetch_helm

K8S = Path(os.environ.get("SECATEUR_K8S_DIR") or ROOT.parent / "shared" / "k8s")


@pytest.fixture(scope="session")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """The real Helm."""
    try:
        binary = fetch_helm()
    except HelmError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))
    return Helm(binary, tmp_path_factory.mktemp("helm"))


@pytest.fixture(scope="session")
def render(helm: Helm) -> Callable[..., Rendered]:
    """Profiles as they are, rendered once."""
    known: dict[tuple[str, ...], Rendered] = {}

    def rendered(profile: str, *words: str) -> Rendered:
        if (profile, *words) not in known:
            known[profile, *words] = helm.template(profile, *words)
        return known[profile, *words]

    return rendered


@pytest.fixture(params=PROFILES)
def profile(request: pytest.FixtureRequest, render: Callable[..., Rendered]) -> Rendered:
    """One profile after the other."""
    return render(request.param)


@pytest.fixture(scope="session")
def raycluster_schema() -> dict[str, Any]:
    """KubeRay's own schema of ray.io/v1 RayCluster, in which unknown fields are forbidden."""
    path = K8S / "ray.io_rayclusters.yaml.gz"
    if not path.is_file():
        pytest.skip(f"no {path.name} in {K8S}; set SECATEUR_K8S_DIR")
    definition = yaml.load(gzip.decompress(path.read_bytes()), Loader=LOADER)
    version = next(one for one in definition["spec"]["versions"] if one["name"] == "v1")
    return closed(version["schema"]["openAPIV3Schema"])


def closed(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with every object closed whose fields are known, as the API server prunes them."""
    made = {name: _closed_part(name, part) for name, part in schema.items()}
    if schema.get("x-kubernetes-int-or-string"):
        made["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    open_ended = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    if "properties" in schema and not open_ended:
        made["additionalProperties"] = False
        made["properties"] |= (
            {"metadata": {"type": "object"}} if schema.get("x-kubernetes-embedded-resource") else {}
        )
    return made


def _closed_part(name: str, part: Any) -> Any:
    if name == "properties":
        return {field: closed(below) for field, below in part.items()}
    if name in ("items", "additionalProperties") and isinstance(part, dict):
        return closed(part)
    return part
