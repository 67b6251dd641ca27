"""Ray's nodes have time to tell that they leave before their pods end."""

from collections.abc import Callable

import pytest

from tests.deploy.charts import Rendered

GROUP = "rayCluster.workerGroups.cpu.terminationGracePeriodSeconds"


@pytest.mark.parametrize(("grace", "drain"), [(None, "100"), (900, "880"), (10, "1")])
def test_a_worker_is_drained_for_nearly_the_whole_grace_period(
    render: Callable[..., Rendered], grace: int | None, drain: str
) -> None:
    rendered = render("small", *([] if grace is None else [f"--set={GROUP}={grace}"]))
    cluster = rendered.one("RayCluster")["spec"]
    groups = {group["groupName"]: group["template"]["spec"] for group in cluster["workerGroupSpecs"]}
    (container,) = groups["cpu"]["containers"]
    assert groups["cpu"]["terminationGracePeriodSeconds"] == (grace or 120)
    assert {"name": "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S", "value": drain} in container["env"]
    assert "lifecycle" not in container, "`ray stop` would end the daemons before anybody hears of it"
