"""The Dockerfiles as they are written: their user, what a build may see, and how Ray is started."""

import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.deploy.charts import Rendered
from tests.deploy.dockerfile import DOCKER, PACKAGES, ROOT, context_files, read

API, WORKER = read(DOCKER / "api.Dockerfile"), read(DOCKER / "worker.Dockerfile")


def test_the_user_is_the_one_of_the_chart(render: Callable[..., Rendered]) -> None:
    for name, template in render("production").pods():
        security = template["spec"]["securityContext"]
        image = WORKER if name.startswith("ray/") else API
        user = image[-1].last("USER")
        assert user is not None
        assert user.text == f"{security['runAsUser']}:{security['runAsGroup']}", name


def test_the_context_is_the_source_and_nothing_else() -> None:
    files = context_files()
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *PACKAGES],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    source = {Path(name) for name in tracked if (ROOT / name).is_file()}
    assert files == source | {Path("pyproject.toml"), Path("constraints.txt"), Path("README.md")}


def test_ray_knows_every_start_parameter_of_the_workers(render: Callable[..., Rendered]) -> None:
    from ray.scripts.scripts import start

    known = {option.removeprefix("--") for parameter in start.params for option in parameter.opts}
    for profile in ("small", "production"):
        for group in render(profile).one("RayCluster")["spec"]["workerGroupSpecs"]:
            assert set(group["rayStartParams"]) <= known
