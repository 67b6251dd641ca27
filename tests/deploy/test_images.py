"""The Dockerfiles, carried out, and their images run as the chart runs them: no root, no capability, a
read-only root with the chart's volumes, the chart's environment and commands, a network of their own."""

import json
import os
import re
import shlex
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.boxes import Box, Builder, Namespace, NoBoxes, builder, pod
from tests.deploy.charts import Rendered
from tests.deploy.dockerfile import DOCKER, PACKAGES, read

API, WORKER = read(DOCKER / "api.Dockerfile"), read(DOCKER / "worker.Dockerfile")
START_SECONDS = 300.0
TOKEN = "t" * 40
# What the secrets hold that the chart refers to.
SECRETS = {
    ("secateur-database", "url"): "sqlite:////var/lib/secateur/secateur.db",
    ("secateur-admin-key", "key"): "k" * 40,
    ("secateur-ray-token", "auth_token"): TOKEN,
    ("secateur-s3", "access-key"): "access",
    ("secateur-s3", "secret-key"): "secret",
}
# No cluster's DNS, one network for all pods, and no S3 in it.
HERE = {
    "SECATEUR_RAY_ADDRESS": "http://127.0.0.1:8265",
    "SECATEUR_PORT": "18080",
    "SECATEUR_STORAGE_URL": "file:///var/lib/secateur/storage",
}

SIGN_IN = (
    "import httpx, sys\n"
    "headers = {'X-Forwarded-Proto': 'https'}\n"
    "answer = httpx.post(sys.argv[1] + '/session', json={'key': sys.argv[2]}, headers=headers)\n"
    "print(answer.status_code, answer.headers['set-cookie'])\n"
)


@pytest.fixture(scope="module")
def built() -> Iterator[Builder]:
    """A place to build in."""
    try:
        with builder() as place:
            yield place
    except NoBoxes as error:  # a matter of permissions, not of something that could be installed
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def api_image(built: Builder) -> Box:
    """api.Dockerfile, every instruction of it."""
    for stage in API:
        box = built.stage(stage)
    return box


@pytest.fixture(scope="module")
def worker_image(built: Builder) -> Box:
    """The last stage of worker.Dockerfile, with the packages of this environment in place of a new 2 GB."""
    box = built.box("worker")
    mount_environment(box)
    for one in WORKER[-1].instructions:
        if not one.flags.get("from") and "apt-get install" not in one.text:  # the compiler is this machine's
            built.carry_out(box, one)
    return box


def mount_environment(box: Box) -> None:
    """The packages of this environment, and its `ray`, where the image has its own."""
    home = "/opt/secateur"
    box.run("python", "-m", "venv", "--without-pip", home)
    packages = sysconfig.get_path("purelib")
    below = Path(packages).relative_to(sys.prefix)
    box.namespace.run("mount", "--bind", packages, f"{box.path}{home}/{below}")
    ours = Path(sys.prefix, "bin", "ray").read_text().partition("\n")[2]
    script = f"#!{home}/bin/python\n{ours}"
    box.run("sh", "-ec", 'printf %s "$1" > "$0"; chmod 0755 "$0"', f"{home}/bin/ray", script)


def environment(rendered: Rendered, container: Mapping[str, Any]) -> dict[str, str]:
    """Of a container: its ConfigMap, its values, and what its secrets hold."""
    told = rendered.settings() if container.get("envFrom") else {}
    for one in container.get("env", []):
        reference = one.get("valueFrom", {}).get("secretKeyRef")
        told[one["name"]] = SECRETS[reference["name"], reference["key"]] if reference else one["value"]
    return told


def mount_volumes(inside: Namespace, box: Box, template: Mapping[str, Any]) -> None:
    """Empty directories and secrets of a pod, as Kubernetes mounts them for its fsGroup."""
    group = template["spec"]["securityContext"]["fsGroup"]
    volumes = {volume["name"]: volume for volume in template["spec"]["volumes"]}
    for mount in template["spec"]["containers"][0]["volumeMounts"]:
        volume, target = volumes[mount["name"]], box.path + mount["mountPath"]
        box.namespace.run("mkdir", "-p", target)
        inside.run("mount", "-t", "tmpfs", "-o", f"mode=2777,gid={group}", mount["name"], target)
        for item in volume.get("secret", {}).get("items", []):
            path = f"{target}/{item['path']}"
            value = SECRETS[volume["secret"]["secretName"], item["key"]]
            inside.run("sh", "-ec", f"printf %s {value} > {path}; chgrp {group} {path}; chmod 0440 {path}")


def ask(box: Box, inside: Namespace, url: str, token: str = "") -> tuple[int, str]:
    """Status and text; 0 while nobody listens."""
    code = (
        "import sys, urllib.error as e, urllib.request as r\n"
        "h = {'Authorization': 'Bearer ' + sys.argv[2]} if sys.argv[2] else {}\n"
        "q = r.Request(sys.argv[1], headers=h)\n"
        "try:\n    a = r.urlopen(q, timeout=10); print(a.status); print(a.read().decode())\n"
        "except e.HTTPError as x: print(x.code); print(x.read().decode())\n"
        "except OSError as x: print(0); print(x)\n"
    )
    status, _, text = box.run("python", "-c", code, url, token, where=inside).partition("\n")
    return int(status), text


def wait(done: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    """Until it is true, unless the process ends before."""
    deadline = time.monotonic() + START_SECONDS
    while not done():
        alive = process.poll() is None and time.monotonic() < deadline
        assert alive, log.read_text()[-4000:]
        time.sleep(0.2)


@pytest.mark.slow
def test_the_api_image_has_neither_torch_nor_ray_and_every_file_of_the_packages(
    api_image: Box, built: Builder
) -> None:
    code = (
        "import importlib.util as u, json, pathlib, api, pipeline, secateur, workers\n"
        "heavy = ('torch', 'ray', 'transformers', 'datasets', 'lm_eval', 'pip')\n"
        "found = [name for name in heavy if u.find_spec(name)]\n"
        "top = pathlib.Path(api.__file__).parent.parent\n"
        f"below = [p for n in {PACKAGES} for p in (top / n).rglob('*') if p.is_file()]\n"
        "files = [str(p.relative_to(top)) for p in below]\n"
        "print(json.dumps([found, str(top), files]))\n"
    )
    found, top, files = json.loads(api_image.run("python", "-c", code))
    assert found == []
    assert top.startswith("/opt/secateur/")
    source = {str(file) for file in built.context if len(file.parts) > 1}
    assert source - set(files) == set(), "add them to [tool.setuptools.package-data]"
    megabytes = int(api_image.run("du", "-sm", "/opt/secateur").split()[0])
    assert megabytes < 250, f"the API's packages take {megabytes} MB"


@pytest.mark.slow
def test_the_api_image_runs_as_the_chart_says(
    api_image: Box, render: Callable[..., Rendered], tmp_path: Path
) -> None:
    """Migrations, entry point, health check, `helm test` and keys, with a Ray that is not there."""
    rendered = render("small", "--set=ingress.enabled=true", "--set=ingress.host=secateur.example.com")
    deployment, job = (rendered.one(kind)["spec"]["template"] for kind in ("Deployment", "Job"))
    entry, health, command = (API[-1].last(name) for name in ("ENTRYPOINT", "HEALTHCHECK", "CMD"))
    assert entry is not None
    assert health is not None
    assert command is not None
    container = deployment["spec"]["containers"][0]
    assert container["args"] == command.words, "the image does by itself what the chart asks for"
    env = environment(rendered, container) | HERE
    with pod(api_image) as inside:
        mount_volumes(inside, api_image, deployment)
        migrations = job["spec"]["containers"][0]
        api_image.run(*migrations["command"], env=environment(rendered, migrations), where=inside)
        words = api_image.command([*entry.words, *container["args"]], env=env, where=inside)
        process = inside.start(words, log=tmp_path / "api.log")
        check = shlex.join(json.loads(health.text.removeprefix("CMD ")))
        healthy = ["sh", "-c", f"{check} 2>/dev/null && echo yes || echo no"]
        wait(lambda: api_image.run(*healthy, env=env, where=inside) == "yes\n", process, tmp_path / "api.log")
        base = f"http://127.0.0.1:{env['SECATEUR_PORT']}"
        status, text = ask(api_image, inside, f"{base}/readyz")
        checks = {check["name"]: check["ok"] for check in json.loads(text)["checks"]}
        assert (status, checks) == (503, {"database": True, "storage": True, "ray": False})
        test = rendered.one("Pod")["spec"]["containers"][0]["command"]
        assert test[-1] == "http://demo-secateur.ml.svc:80/readyz"
        tested = subprocess.run(
            api_image.command([*test[:-1], f"{base}/readyz"], where=inside),
            capture_output=True,
            text=True,
            check=False,
        )
        assert tested.returncode != 0
        assert "HTTP 503" in tested.stderr
        assert ask(api_image, inside, f"{base}/metrics")[0] == 200
        assert ask(api_image, inside, f"{base}/jobs")[0] == 401
        assert ask(api_image, inside, f"{base}/jobs", SECRETS["secateur-admin-key", "key"])[0] == 200
        cookie = api_image.run(
            *("python", "-c", SIGN_IN, base, SECRETS["secateur-admin-key", "key"]), where=inside
        )
        assert "; Secure" in cookie, "the ingress says that the browser speaks HTTPS"
        inside.run("sh", "-c", f"! touch {api_image.path}/opt/secateur/x 2>/dev/null")


@pytest.mark.slow
def test_kuberay_and_the_api_meet_on_the_worker_image(
    worker_image: Box, api_image: Box, render: Callable[..., Rendered], tmp_path: Path
) -> None:
    """The head starts as KubeRay starts it, asks for the token, and the API is ready with the mounted one."""
    rendered = render("small")
    cluster = rendered.one("RayCluster")["spec"]
    head = cluster["headGroupSpec"]
    container = head["template"]["spec"]["containers"][0]
    # What KubeRay 1.7 adds: its own parameters and, for authOptions, the secret's auth_token.
    added = {"block": "true", "dashboard-agent-listen-port": "52365", "metrics-export-port": "8080"}
    parameters = {**head["rayStartParams"], **added}
    flags = [f"--{name}" if value == "true" else f"--{name}={value}" for name, value in parameters.items()]
    assert cluster["authOptions"] == {"mode": "token", "secretName": "secateur-ray-token"}
    ray_env = environment(rendered, container) | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
    api = rendered.one("Deployment")["spec"]["template"]
    api_env = environment(rendered, api["spec"]["containers"][0]) | HERE
    with pod(worker_image, api_image) as inside:
        mount_volumes(inside, worker_image, head["template"])
        mount_volumes(inside, api_image, api)
        start = ["/bin/bash", "-c", "--", f"ulimit -n 65536; ray start --head {' '.join(flags)}"]
        process = inside.start(
            worker_image.command(start, env=ray_env, where=inside), log=tmp_path / "ray.log"
        )
        service = inside.start(
            api_image.command(["secateur", "serve"], env=api_env, where=inside), log=tmp_path / "api.log"
        )

        def status(url: str, token: str = "") -> int:
            return ask(worker_image, inside, url, token)[0]

        health = "http://127.0.0.1:52365/api/healthz"  # KubeRay's probe
        wait(lambda: status(health) == 200, process, tmp_path / "ray.log")
        assert status("http://127.0.0.1:8265/api/version") == 401
        assert status("http://127.0.0.1:8265/api/version", "wrong") == 403
        assert status("http://127.0.0.1:8265/api/version", TOKEN) == 200
        ready = f"http://127.0.0.1:{HERE['SECATEUR_PORT']}/readyz"
        wait(lambda: status(ready) == 200, service, tmp_path / "api.log")
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        for name in ("metrics", "dash-metrics"):  # as-metrics is the autoscaler's
            assert status(f"http://127.0.0.1:{ports[name]}/metrics") == 200, name
        nodes = ask(worker_image, inside, "http://127.0.0.1:8265/nodes?view=summary", TOKEN)[1]
        assert json.loads(nodes)["result"] is True
        places = worker_image.run("ray", "status", env=ray_env, where=inside)
        assert not re.search(r"^ *[0-9.]+/[0-9.]+ (CPU|GPU)", places, re.MULTILINE), "no places on the head"
        (stop,) = container["lifecycle"]["preStop"]["exec"]["command"][2:]
        worker_image.run("sh", "-c", stop, env=ray_env, where=inside)
        assert status(health) == 0


@pytest.mark.slow
def test_the_worker_image_builds_but_for_the_download_of_its_packages(built: Builder) -> None:
    """torch alone comes from the given index; the rest resolves to what the other tests run with."""
    build, _ = WORKER
    box = built.box("worker-build")
    downloads = []
    for one in build.instructions:
        if one.name == "RUN" and " install " in one.text:
            downloads.append(one.text)
        else:
            built.carry_out(box, one, arguments={"TORCH_INDEX": "https://pypi.org/simple"})
    torch, rest = downloads
    assert "--no-deps --index-url ${TORCH_INDEX} -c constraints.txt torch" in torch
    pin = box.run("sh", "-c", "grep ^torch== constraints.txt").strip()
    assert re.fullmatch(r"torch==[0-9.]+", pin), "whichever build the index has"
    mount_environment(box)
    said = box.run(
        "sh", "-ec", rest.replace(" install ", " install --dry-run "), env={"HOME": "/root", **pip()}
    )
    (made,) = re.findall(r"^Would install (.*)", said, re.MULTILINE)
    assert re.fullmatch(r"secateur-[0-9.]+", made), f"not as tested: {made}"


def pip() -> dict[str, str]:
    """Where this machine takes packages from."""
    return {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
