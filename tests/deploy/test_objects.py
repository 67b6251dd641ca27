"""What the rendered objects mean: who they run as, what they select, what a change restarts."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from api.app import create_app
from api.settings import Settings
from tests.deploy.charts import CHART, NAMESPACE, Helm, Object, Rendered, containers, secret_references
from tests.deploy.test_chart import version

Render = Callable[..., Rendered]
UID = 10001
SECRETS = {
    ("secateur-database", "url"),
    ("secateur-admin-key", "key"),
    ("secateur-s3", "access-key"),
    ("secateur-s3", "secret-key"),
    ("secateur-hub", "token"),
    ("secateur-redis", "password"),
}


def parse_bytes(text: str) -> int:
    """Of Mi and Gi."""
    return int(text[:-2]) * {"Mi": 2**20, "Gi": 2**30}[text[-2:]]


def selects(selector: Object, labels: dict[str, str]) -> bool:
    """Whether matchLabels are among the labels."""
    return selector["matchLabels"].items() <= labels.items()


def test_every_container_runs_with_nothing_to_spare(profile: Rendered) -> None:
    for name, pod in profile.pods():
        spec = pod["spec"]
        security = spec["securityContext"]
        assert security["runAsNonRoot"] is True, name
        assert {security["runAsUser"], security["runAsGroup"], security["fsGroup"]} == {UID}, name
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert spec["enableServiceLinks"] is False, name
        assert spec["serviceAccountName"] != "default", name
        autoscaler = name == "ray/head" and profile.one("RayCluster")["spec"]["enableInTreeAutoscaling"]
        assert spec["automountServiceAccountToken"] is autoscaler, name
        for container in containers(pod):
            tight = container["securityContext"]
            assert tight["allowPrivilegeEscalation"] is False, name
            assert tight["readOnlyRootFilesystem"] is True, name
            assert tight["capabilities"] == {"drop": ["ALL"]}, name
            assert "memory" in container["resources"]["limits"], name
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys(), name
            mounts = {mount["name"] for mount in container.get("volumeMounts", [])}
            assert mounts == {volume["name"] for volume in spec.get("volumes", [])}, name
            if not name.startswith("Pod/"):
                assert "/tmp" in {mount["mountPath"] for mount in container["volumeMounts"]}, name
    for cluster in profile.of("RayCluster"):
        if cluster["spec"]["enableInTreeAutoscaling"]:
            sidecar = cluster["spec"]["autoscalerOptions"]
            assert sidecar["securityContext"]["readOnlyRootFilesystem"] is True
            assert sidecar["volumeMounts"] == [{"name": "tmp", "mountPath": "/tmp"}]


def test_secrets_are_only_ever_named(profile: Rendered) -> None:
    assert not profile.of("Secret")
    assert set(secret_references(profile.objects)) <= SECRETS
    for name, pod in profile.pods():
        for container in containers(pod):
            for one in container.get("env", []):
                if any(word in one["name"] for word in ("KEY", "TOKEN", "PASSWORD", "DATABASE_URL")):
                    assert "value" not in one, f"{name}: {one['name']}"
    token = next(
        volume["secret"]
        for volume in profile.one("Deployment")["spec"]["template"]["spec"]["volumes"]
        if "secret" in volume
    )
    assert token["defaultMode"] == 0o440
    for cluster in profile.of("RayCluster"):
        assert cluster["spec"]["authOptions"] == {"mode": "token", "secretName": token["secretName"]}


def test_selectors_find_the_pods_of_the_api_and_no_others(profile: Rendered) -> None:
    deployment, service = profile.one("Deployment"), profile.one("Service")
    template = deployment["spec"]["template"]
    spread = template["spec"].get("topologySpreadConstraints", [])
    monitors = profile.of("ServiceMonitor")
    found = [
        deployment["spec"]["selector"],
        {"matchLabels": service["spec"]["selector"]},
        *(budget["spec"]["selector"] for budget in profile.of("PodDisruptionBudget")),
        *(one["labelSelector"] for one in spread),
    ]
    for selector in found:
        chosen = [name for name, pod in profile.pods() if selects(selector, pod["metadata"]["labels"])]
        assert chosen == [f"Deployment/{deployment['metadata']['name']}"]
    for monitor in monitors:
        assert selects(monitor["spec"]["selector"], service["metadata"]["labels"])
    for scaler in profile.of("HorizontalPodAutoscaler"):
        assert scaler["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
        assert "replicas" not in deployment["spec"], "helm upgrade would undo what was scaled"


def test_ports_meet(profile: Rendered) -> None:
    container = profile.one("Deployment")["spec"]["template"]["spec"]["containers"][0]
    (port,) = container["ports"]
    (exposed,) = profile.one("Service")["spec"]["ports"]
    assert exposed["targetPort"] == port["name"]
    assert profile.settings()["SECATEUR_PORT"] == str(port["containerPort"])
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["port"] == port["name"]
    for ingress in profile.of("Ingress"):
        backend = ingress["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"]
        assert backend == {
            "name": profile.one("Service")["metadata"]["name"],
            "port": {"name": exposed["name"]},
        }
        (tls,) = ingress["spec"]["tls"]
        assert tls["hosts"] == [ingress["spec"]["rules"][0]["host"]]
    for monitor in profile.of("ServiceMonitor"):
        assert [end["port"] for end in monitor["spec"]["endpoints"]] == [exposed["name"]]
    for monitor in profile.of("PodMonitor"):
        ray = [pod for name, pod in profile.pods() if name.startswith("ray/")]
        assert all(selects(monitor["spec"]["selector"], pod["metadata"]["labels"]) for pod in ray)
        wanted = {end["port"] for end in monitor["spec"]["podMetricsEndpoints"]}
        head, *workers = [{port["name"] for port in pod["spec"]["containers"][0]["ports"]} for pod in ray]
        assert wanted <= head
        assert all("metrics" in ports for ports in workers)


def test_what_is_asked_for_is_a_route(profile: Rendered, tmp_path: Path) -> None:
    app = create_app(Settings(state_dir=tmp_path, ray_address="http://ray"), dispatch=False)
    routes = app.openapi()["paths"]
    container = profile.one("Deployment")["spec"]["template"]["spec"]["containers"][0]
    probes = ("startupProbe", "livenessProbe", "readinessProbe")
    asked = [container[probe]["httpGet"]["path"] for probe in probes]
    asked += [end["path"] for one in profile.of("ServiceMonitor") for end in one["spec"]["endpoints"]]
    asked += ["/" + pod["spec"]["containers"][0]["command"][-1].split("/", 3)[3] for pod in profile.of("Pod")]
    assert set(asked) <= set(routes)
    app.state.services.database.close()
    app.state.services.ray.close()


def test_the_service_understands_its_settings(profile: Rendered, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in profile.settings().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SECATEUR_DATABASE_URL", "postgresql+psycopg://db/secateur")
    settings = Settings()
    assert settings.ray_address is not None, "or each process would start a Ray of its own"
    assert settings.storage_url.startswith("s3://secateur") or settings.storage_url.startswith("s3://example")
    service = profile.one("Service")
    port = service["spec"]["ports"][0]["port"]
    assert settings.public_url == f"http://{service['metadata']['name']}.{NAMESPACE}.svc:{port}"
    for cluster in profile.of("RayCluster"):
        head = f"http://{cluster['metadata']['name']}-head-svc.{NAMESPACE}.svc:8265"
        assert settings.ray_address == head, "as KubeRay names the head's service"


def test_large_numbers_stay_whole(render: Render) -> None:
    assert render("production").settings()["SECATEUR_MAX_BODY_BYTES"] == "10485760"


def test_some_pods_always_stay(profile: Rendered) -> None:
    replicas = profile.one("Deployment")["spec"].get("replicas")
    for scaler in profile.of("HorizontalPodAutoscaler"):
        replicas = scaler["spec"]["minReplicas"]
    for budget in profile.of("PodDisruptionBudget"):
        assert budget["spec"]["minAvailable"] < replicas
    update = profile.one("Deployment")["spec"]["strategy"]["rollingUpdate"]
    assert update == {"maxSurge": 1, "maxUnavailable": 0}


def test_hooks_come_in_order(profile: Rendered) -> None:
    job = profile.one("Job")
    hooks = [one for one in profile.objects if "helm.sh/hook" in one["metadata"].get("annotations", {})]
    before = [one for one in hooks if "pre-install" in one["metadata"]["annotations"]["helm.sh/hook"]]
    weights = {one["kind"]: int(one["metadata"]["annotations"]["helm.sh/hook-weight"]) for one in before}
    assert max(weights, key=weights.__getitem__) == "Job"
    for one in before:
        notes = one["metadata"]["annotations"]
        assert notes["helm.sh/hook"] == "pre-install,pre-upgrade"
        assert notes["helm.sh/hook-delete-policy"] == "before-hook-creation,hook-succeeded"
    made_before = {(one["kind"], one["metadata"]["name"]) for one in before}
    pod = job["spec"]["template"]["spec"]
    assert ("ServiceAccount", pod["serviceAccountName"]) in made_before
    assert "envFrom" not in pod["containers"][0], "the ConfigMap is not there yet"
    assert {one["kind"] for one in hooks if one not in before} == {"Pod"}


def test_images_are_of_this_version_unless_pinned_otherwise(render: Render) -> None:
    for name, pod in render("production").pods():
        (container,) = containers(pod)
        which = "worker" if name.startswith("ray/") else "api"
        cuda = "-cuda" if name.startswith("ray/gpu") else ""
        assert container["image"] == f"registry.example.com/ml/secateur-{which}:{version()}{cuda}", name
    digest = f"sha256:{'0' * 64}"
    pinned = render("small", f"--set=api.image.digest={digest}", "--set=api.image.tag=ignored")
    image = pinned.one("Deployment")["spec"]["template"]["spec"]["containers"][0]["image"]
    assert image == f"secateur-api@{digest}"


def test_a_changed_setting_restarts_the_api_and_leaves_ray_alone(
    helm: Helm, render: Render, tmp_path: Path
) -> None:
    before, after = render("production"), render("production", "--set=settings.logLevel=DEBUG")
    old, new = (one.one("Deployment")["spec"]["template"] for one in (before, after))
    assert old["metadata"]["annotations"] != new["metadata"]["annotations"]
    assert before.one("RayCluster") == after.one("RayCluster")
    # Nor does a new version of the chart alone restart anything.
    for source in CHART.rglob("*"):
        if source.is_file():
            copy = tmp_path / source.relative_to(CHART)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(re.sub(r"(?m)^version: .*", "version: 99.0.0", source.read_text()))
    moved = helm.template("production", chart=tmp_path)
    assert moved.one("Deployment")["spec"] == before.one("Deployment")["spec"]
    assert moved.one("RayCluster")["spec"] == before.one("RayCluster")["spec"]


@pytest.mark.parametrize("name", ["small", "production"])
def test_ray_plans_with_what_its_pods_have(render: Render, name: str) -> None:
    rendered = render(name)
    spec = rendered.one("RayCluster")["spec"]
    head = spec["headGroupSpec"]["rayStartParams"]
    assert (head["num-cpus"], head["num-gpus"], head["memory"]) == ("0", "0", "0")
    for group in spec["workerGroupSpecs"]:
        container = group["template"]["spec"]["containers"][0]
        resources, params = container["resources"], group["rayStartParams"]
        assert resources["requests"] == resources["limits"], "Ray counts limits"
        shared = next(one for one in group["template"]["spec"]["volumes"] if one["name"] == "shared-memory")
        assert shared["emptyDir"]["medium"] == "Memory"
        size = parse_bytes(shared["emptyDir"]["sizeLimit"])
        assert int(params["memory"]) + size == parse_bytes(resources["limits"]["memory"])
        assert 0.85 * size < int(params["object-store-memory"]) < size
        assert {"name": "OMP_WAIT_POLICY", "value": "PASSIVE"} in container["env"]
        assert {"name": "GOMP_SPINCOUNT", "value": "10000"} in container["env"]
        if spec["enableInTreeAutoscaling"]:
            assert "replicas" not in group, "helm upgrade would undo what was scaled"
            assert group["idleTimeoutSeconds"] > 0
        else:
            assert group["replicas"] == group["minReplicas"] == group["maxReplicas"]


def test_groups_with_gpus(render: Render) -> None:
    spec = render("production").one("RayCluster")["spec"]
    groups = {group["groupName"]: group for group in spec["workerGroupSpecs"]}
    assert set(groups) == {"cpu", "gpu", "gpu-large"}
    assert spec["autoscalerOptions"]["version"] == "v2"
    for name, gpus in (("gpu", 1), ("gpu-large", 8)):
        pod = groups[name]["template"]["spec"]
        assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == gpus
        assert pod["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert groups["gpu"]["template"]["spec"]["nodeSelector"]
    assert (groups["gpu-large"]["minReplicas"], groups["gpu-large"]["maxReplicas"]) == (0, 1)
    redis = spec["gcsFaultToleranceOptions"]
    assert redis["redisAddress"] == "redis.databases.svc:6379"
    assert set(redis["redisPassword"]) == {"valueFrom"}


def test_a_cluster_elsewhere_is_used_and_none_is_made(render: Render) -> None:
    rendered = render("existing-cluster")
    assert not rendered.of("RayCluster")
    assert rendered.settings()["SECATEUR_RAY_ADDRESS"] == "http://shared-ray-head-svc.ray.svc:8265"
    text = json.dumps(rendered.objects)
    assert "demo-secateur-ray" not in text


def test_names_fit_whatever_the_release_is_called(helm: Helm) -> None:
    """KubeRay refuses clusters with more than 53 characters; Kubernetes most names with more than 63."""
    rendered = helm.template("production", release="a-very-long-name-of-a-release-with-53-characters-xyz")
    for one in rendered.objects:
        limit = 53 if one["kind"] == "RayCluster" else 63
        assert len(one["metadata"]["name"]) <= limit
        labels: dict[str, Any] = one["metadata"]["labels"]
        assert all(len(value) <= 63 for value in labels.values())


def test_the_notes_say_how_to_reach_it_and_where_the_key_is(helm: Helm) -> None:
    def notes(profile: str, *words: str) -> str:
        values = str(CHART / "ci" / f"{profile}-values.yaml")
        dry = ("--dry-run=client", "--namespace", NAMESPACE, "--values", values, *words)
        return helm.run("install", "demo", str(CHART), *dry).partition("NOTES:")[2]

    production, small = notes("production"), notes("small", "--set=auth.adminKey.existingSecret=")
    assert "https://secateur.example.com" in production
    assert "get secret secateur-admin-key -o jsonpath='{.data.key}'" in production
    assert "port-forward svc/demo-secateur 8080:80" in small
    assert "exec deploy/demo-secateur -- secateur keys bootstrap" in small
    assert "none is asked for" in notes("small", "--set=auth.mode=none").lower()
