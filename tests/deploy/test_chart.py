"""The chart as a package: Helm, Kubernetes and KubeRay take it, and wrong values are refused by name."""

import re
import tarfile
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from api.settings import Settings, variables
from pipeline.serving.available import TargetSettings
from pipeline.sources.access import SourceAccess
from pipeline.storage.settings import PREFIX, StorageSettings
from tests.deploy.charts import CHART, PROFILES, ROOT, Helm, HelmError, Object, Rendered, schema, walk
from tests.deploy.dockerfile import DOCKER, read
from tests.deploy.values_table import README, with_table
from workers.settings import WorkerSettings

KUBERNETES = "1.37"
NOT_KUBERNETES = {"RayCluster", "ServiceMonitor", "PodMonitor"}


def version() -> str:
    """Of the project."""
    found: str = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    return found


def pinned(package: str) -> str:
    """The version in constraints.txt."""
    found = re.search(rf"^{package}==([^+\s]+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert found is not None
    return found[1]


@pytest.mark.parametrize("name", PROFILES)
def test_helm_finds_nothing_to_say_against_a_profile(helm: Helm, name: str) -> None:
    said = helm.run("lint", "--strict", str(CHART), "--values", str(CHART / "ci" / f"{name}-values.yaml"))
    assert "0 chart(s) failed" in said
    assert not re.findall(r"\[(?:WARNING|ERROR)\].*", said)


def test_the_package_has_what_an_operator_reads_and_no_test_values(helm: Helm, tmp_path: Path) -> None:
    helm.run("package", str(CHART), "--destination", str(tmp_path))
    with tarfile.open(tmp_path / f"secateur-{version()}.tgz") as archive:
        names = set(archive.getnames())
    assert {"secateur/README.md", "secateur/values.schema.json", "secateur/templates/NOTES.txt"} <= names
    assert not any("/ci/" in name for name in names)


def test_versions_are_those_of_the_project_and_its_pins() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == version()
    assert chart["annotations"]["rayVersion"] == pinned("ray")
    for path in DOCKER.glob("*.Dockerfile"):
        assert read(path)[-1].merged("LABEL")["org.opencontainers.image.version"] == version(), path.name


def test_kubernetes_takes_every_object_of_its_own(profile: Rendered) -> None:
    checked = [one for one in profile.objects if one["kind"] not in NOT_KUBERNETES]
    assert len(checked) >= 8
    for one in checked:
        kubernetes_validate.validate(one, KUBERNETES, strict=True)


@pytest.mark.parametrize("name", ["small", "production"])
def test_kuberay_takes_the_cluster(
    render: Callable[..., Rendered], raycluster_schema: dict[str, Any], name: str
) -> None:
    cluster = render(name).one("RayCluster")
    validator = jsonschema.Draft202012Validator(raycluster_schema)
    assert [f"{error.json_path}: {error.message}" for error in validator.iter_errors(cluster)] == []
    # The schema would notice: a field that it does not know, and a wrong type deep inside.
    group = cluster["spec"]["workerGroupSpecs"][0]
    for wrong in (
        {**group, "replica": 1},
        {**group, "template": {"spec": {"containers": [{"name": "x", "ports": [{"containerPort": "y"}]}]}}},
    ):
        changed = {**cluster, "spec": {**cluster["spec"], "workerGroupSpecs": [wrong]}}
        assert not validator.is_valid(changed)


def test_storage_must_be_said(helm: Helm) -> None:
    with pytest.raises(HelmError, match="at '/storage/url'"):
        helm.run("template", "demo", str(CHART))


REFUSED = {
    "a secret as a value": ("--set=storage.secretKey=abc", "at '/storage': .*'secretKey'"),
    "a database URL for a secret's name": (
        "--set=database.existingSecret=postgresql://u:p@h/n",
        "at '/database/existingSecret'",
    ),
    "a token in the environment of Ray": (
        "--set=rayCluster.extraEnv.HF_TOKEN=abc",
        "/rayCluster/extraEnv/HF_TOKEN",
    ),
    "a secret among the settings": (
        "--set=settings.extra.SECATEUR_S3_SECRET_KEY=x",
        "SECATEUR_S3_SECRET_KEY",
    ),
    "a setting that does not exist": ("--set=settings.extra.SECATEUR_MAX_ATTEMPT=3", "SECATEUR_MAX_ATTEMPT"),
    "a value that does not exist": ("--set=api.replica=3", "at '/api': .*'replica'"),
    "no replicas": ("--set=api.replicas=0", "at '/api/replicas'"),
    "storage elsewhere": ("--set=storage.url=gs://bucket/x", "at '/storage/url'"),
    "an endpoint with a password": (
        "--set=storage.endpointUrl=https://u:p@s3.example.com",
        "/storage/endpointUrl",
    ),
    "an encryption that S3 has not": ("--set=storage.sse=rot13", "at '/storage/sse'"),
    "memory without a unit": ("--set=rayCluster.head.memory=8", "at '/rayCluster/head/memory'"),
    "a field of a group that does not exist": (
        "--set=rayCluster.workerGroups.gpu.gpu=1",
        "/workerGroups/gpu",
    ),
    "a group's name that is no label": ("--set=rayCluster.workerGroups.GPU_1.gpus=1", "GPU_1"),
    "TLS for no host": ("--set=ingress.host=", "at '/ingress/host'"),
    "a cluster without a token": ("--set=ray.token.existingSecret=", "at '/ray/token/existingSecret'"),
    "a key that KubeRay does not read": ("--set=ray.token.key=token", "at '/ray/token/key'"),
    "an own cluster without an address": ("--set=rayCluster.enabled=false", "at '/ray/address'"),
    "fault tolerance in no Redis": (
        "--set=rayCluster.gcsFaultTolerance.redisAddress=",
        "/rayCluster/gcsFaultTolerance/redisAddress",
    ),
    "a peer that is none": (
        '--set-json=networkPolicy.databaseTo=[{"pods":{}}]',
        "/networkPolicy/databaseTo/0",
    ),
    "a quantity that is none": ("--set=api.resources.limits.cpu=lots", "at '/api/resources/limits/cpu'"),
    # What compares two values is refused by the templates.
    "a budget that blocks every drain": ("--set=api.pdb.minAvailable=3", r"api\.pdb\.minAvailable=3"),
    "more pods at least than at most": (
        "--set=rayCluster.workerGroups.cpu.minReplicas=9",
        r"rayCluster\.workerGroups\.cpu\.minReplicas=9",
    ),
    "an object store above the memory": (
        "--set=rayCluster.workerGroups.cpu.sharedMemory=64Gi",
        r"rayCluster\.workerGroups\.cpu\.sharedMemory=64Gi",
    ),
    "more drivers than the head has memory for": (
        "--set=settings.maxRunningJobs=50",
        r"rayCluster\.head\.memory=24Gi .* settings\.maxRunningJobs=50",
    ),
    "nobody to do the work": (
        "--set-json=rayCluster.workerGroups={"
        '"cpu":{"enabled":false},"gpu":{"enabled":false},"gpu-large":{"enabled":false}}',
        r"rayCluster\.workerGroups: none is enabled",
    ),
    "two clusters": ("--set=ray.address=http://head:8265", r"ray\.address=http://head:8265"),
    "a key for another encryption": ("--set=storage.sse=AES256", r"storage\.kmsKeyId"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_wrong_values_are_refused_by_name(helm: Helm, what: str) -> None:
    option, message = REFUSED[what]
    assert re.search(message, helm.refusal("production", option))


def test_policies_for_a_cluster_elsewhere_ask_where_it_is(helm: Helm) -> None:
    assert "networkPolicy.rayPeers" in helm.refusal(
        "existing-cluster", "--set-json=networkPolicy.rayPeers=[]"
    )


def test_the_schema_is_closed_everywhere() -> None:
    """Only what Kubernetes itself understands is handed over unread: sources of volumes, and affinities."""
    document = schema()
    unread = {"#/definitions/affinity", "#/definitions/volumes"}

    def check(path: str, node: Object) -> None:
        if node.get("type") != "object" or path == "#/properties/global":
            return
        if any(path.startswith(f"{name}/") for name in unread) and "properties" not in node:
            return
        assert "additionalProperties" in node, f"{path} takes anything"
        if path.removesuffix("/items") not in unread:
            assert node["additionalProperties"] in (False, {"type": "string"}), path

    walk(document, check)
    for conditional in ("if", "then", "else"):
        assert conditional in document, "what depends on rayCluster.enabled"


def test_every_value_is_documented_with_its_default() -> None:
    """The schema describes it, and the README's table is made from there."""
    readme = README.read_text()
    assert with_table(readme) == readme, "run python -m tests.deploy.values_table"


def test_the_readme_s_secrets_are_those_that_the_values_name() -> None:
    (manifest,) = re.findall(r"```yaml\n(apiVersion.*?)```", README.read_text(), re.DOTALL)
    made = {secret["metadata"]["name"]: set(secret["stringData"]) for secret in yaml.safe_load_all(manifest)}
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert made == {
        values["database"]["existingSecret"]: {values["database"]["key"]},
        "secateur-s3": {values["storage"]["accessKeyKey"], values["storage"]["secretKeyKey"]},
        values["ray"]["token"]["existingSecret"]: {values["ray"]["token"]["key"]},
        values["auth"]["adminKey"]["existingSecret"]: {values["auth"]["adminKey"]["key"]},
    }


def test_the_readme_s_install_renders(helm: Helm) -> None:
    (line,) = re.findall(r"^helm -n secateur install .*$", README.read_text(), re.MULTILINE)
    words = line.replace("BUCKET", "bucket").replace("REGISTRY", "registry.example.com").split()
    _, _, _, _, release, chart, *options = words
    assert chart == "deploy/helm"
    assert "kind: RayCluster" in helm.run(
        "template", release, str(CHART), "--namespace", "secateur", *options
    )


def test_every_setting_of_the_service_is_reachable(render: Callable[..., Rendered]) -> None:
    """By a value of its own, or below settings.extra; never by both, and secrets only by reference."""
    production = render("production", "--set=storage.existingSecret=secateur-s3")
    api = production.one("Deployment")["spec"]["template"]["spec"]["containers"][0]
    by_secret = {variable["name"] for variable in api["env"]}
    extra = set(schema()["properties"]["settings"]["properties"]["extra"]["properties"])
    by_value = {name for name in production.settings() if name.startswith(PREFIX)} - extra
    every = set(variables(Settings))
    assert by_value | by_secret | extra == every, "run `python -m api.docs`"
    assert not (by_value | by_secret) & extra
    secrets = {name for name, (_, field) in variables(Settings).items() if "Secret" in str(field)}
    assert by_secret == secrets | {"SECATEUR_DATABASE_URL"}


def test_every_setting_of_a_worker_is_reachable(render: Callable[..., Rendered]) -> None:
    """From the API with each job, by a secret, or by rayCluster.extraEnv."""
    known = set(variables(WorkerSettings))
    shared = variables(StorageSettings) | variables(SourceAccess) | variables(TargetSettings)
    with_jobs = {name for name, (_, field) in shared.items() if "Secret" not in str(field)}
    production = render("production", "--set=storage.existingSecret=secateur-s3")
    for name, pod in production.pods():
        if name.startswith("ray/"):
            told = {
                one["name"] for one in pod["spec"]["containers"][0]["env"] if one["name"].startswith(PREFIX)
            }
            assert told <= known, name
            assert known - with_jobs == told, name  # the profile sets the one that only workers have
