"""What nodes need: compilers for Triton and sparse linears, and a name of their GPUs that the autoscaler
knows."""

from collections.abc import Callable

import pytest
from ray.autoscaler._private.kuberay.autoscaling_config import _get_custom_resources

from pipeline.request.resources import Resources
from tests.deploy.charts import HelmError, Rendered
from tests.deploy.dockerfile import DOCKER, read


def test_the_worker_image_has_compilers() -> None:
    """Triton's launcher is compiled on the node where a kernel first runs, against Python's headers; the
    kernels of sparse linears at their first use."""
    last = read(DOCKER / "worker.Dockerfile")[-1]
    names = [one.name for one in last.instructions]
    installs = [i for i, one in enumerate(last.instructions) if "apt-get install" in one.text]
    (install,) = installs
    words = last.instructions[install].text.split()
    assert {"gcc", "g++", "libc6-dev"} <= set(words)
    assert install < names.index("USER"), "only root may install"


def test_a_group_tells_the_kind_of_its_gpus_before_it_has_a_pod(render: Callable[..., Rendered]) -> None:
    specs = render("production").one("RayCluster")["spec"]["workerGroupSpecs"]
    groups = {group["groupName"]: group for group in specs}
    parameters = groups["gpu"]["rayStartParams"]
    known = _get_custom_resources({}, parameters, "gpu")  # as Ray's autoscaler reads them
    share = Resources(gpus_per_worker=1, accelerator_type="H100").of("pruning")
    assert known == {"accelerator_type:H100": 1}
    assert known.keys() <= share.bundle.keys()
    assert "resources" not in groups["cpu"]["rayStartParams"]


def test_a_wrong_kind_is_refused(render: Callable[..., Rendered]) -> None:
    with pytest.raises(HelmError, match="acceleratorType"):
        render("production", "--set", "rayCluster.workerGroups.gpu.acceleratorType=H100 or A100")
