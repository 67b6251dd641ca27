"""The tracker for MLflow. It uses the client alone: no global state, no autologging."""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pipeline.request.tracking import Mlflow
from workers.training.trackers import Point, Status, Unavailable, without_secrets

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

RUN_TAG = "secateur.run"
# The client's own variables, unless the cluster has set them: short waits, and no usage statistics.
DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_ALLOW_FILE_STORE": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
STATUSES: Mapping[Status, str] = {"finished": "FINISHED", "failed": "FAILED"}


class MlflowTracker:
    """Keeps the run that carries the tag `secateur.run`: <job>/<node>."""

    name = "MLflow"

    def __init__(
        self, where: Mlflow, *, job: str, node: str, title: str, params: Mapping[str, str | int | float]
    ) -> None:
        self._where = where
        self._tags = {RUN_TAG: f"{job}/{node}", "secateur.job": job, "secateur.node": node}
        self._title = title
        self._params = params
        self._client: MlflowClient | None = None
        self._run: str | None = None

    def open(self) -> str:
        """Find the run, or begin one."""
        for name, value in DEFAULTS.items():
            os.environ.setdefault(name, value)
        try:
            from mlflow.entities import Param
            from mlflow.tracking import MlflowClient
        except ImportError as error:
            raise Unavailable("install secateur[tracking] where the drivers run") from error
        client = self._client = MlflowClient(tracking_uri=self._where.tracking_uri)
        experiment = _experiment(client, self._where.experiment)
        found = client.search_runs(
            [experiment], filter_string=f"tags.`{RUN_TAG}` = '{self._tags[RUN_TAG]}'", max_results=1
        )
        if found:
            self._run = found[0].info.run_id
            client.update_run(self._run, status="RUNNING")
        else:
            self._run = client.create_run(experiment, run_name=self._title, tags=self._tags).info.run_id
            params = [Param(name, str(value)) for name, value in self._params.items()]
            client.log_batch(self._run, params=params)
        return (
            f"curves go to MLflow at {without_secrets(self._where.tracking_uri)}, experiment "
            f"{self._where.experiment}, run {self._run}"
        )

    def send(self, points: list[Point]) -> None:
        """Send all figures of the points in one request; MLflow takes 1000 at once."""
        from mlflow.entities import Metric

        assert self._client is not None
        metrics = [
            Metric(name, value, int(point.at * 1000), point.step)
            for point in points
            for name, value in point.values.items()
        ]
        self._client.log_batch(self._run, metrics=metrics)

    def close(self, status: Status) -> None:
        """Report how the run ended."""
        if self._client is not None and self._run is not None:
            self._client.set_terminated(self._run, STATUSES[status])


def _experiment(client: "MlflowClient", name: str) -> str:
    """The id of an experiment, which is created if it does not exist. Another job may create it at the same
    moment."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is not None:
        return found.experiment_id
    try:
        return client.create_experiment(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        return client.get_experiment_by_name(name).experiment_id
