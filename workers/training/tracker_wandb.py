"""The tracker for Weights & Biases. wandb's process sends the points, and keeps them on disk meanwhile."""

import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.request.tracking import WeightsAndBiases
from workers.training.trackers import Point, Status, Unavailable

if TYPE_CHECKING:
    import wandb

INIT_SECONDS = 30.0
FINISH_SECONDS = 20.0


class WandbTracker:
    """Keeps the run whose id is <job>-<node>. Steps that were done twice have two points, and these are
    equal."""

    name = "Weights & Biases"

    def __init__(
        self,
        where: WeightsAndBiases,
        *,
        job: str,
        node: str,
        title: str,
        params: Mapping[str, str | int | float],
    ) -> None:
        self._where = where
        self._job = job
        self._id = re.sub(r"[^A-Za-z0-9_-]", "-", f"{job}-{node}")
        self._title = title
        self._params = params
        self._run: wandb.Run | None = None

    def open(self) -> str:
        """Begin the run, or continue it."""
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        try:
            import wandb
            from wandb.errors import UsageError
        except ImportError as error:
            raise Unavailable("install secateur[tracking] where the drivers run") from error
        directory = Path(os.environ.get("WANDB_DIR", Path(tempfile.gettempdir()) / "secateur"))
        directory.mkdir(parents=True, exist_ok=True)
        offline = self._where.mode == "offline"
        try:
            run = wandb.init(
                project=self._where.project,
                entity=self._where.entity,
                mode=self._where.mode,
                id=self._id,
                resume=None if offline else "allow",  # offline, `wandb sync --append` puts the parts together
                name=self._title,
                group=self._job,
                config=dict(self._params),
                dir=str(directory),
                reinit="create_new",
                settings=wandb.Settings(
                    console="off",
                    silent=True,
                    disable_git=True,
                    disable_code=True,
                    x_disable_stats=True,
                    init_timeout=INIT_SECONDS,
                    finish_timeout=FINISH_SECONDS,
                    finish_timeout_raises=True,
                ),
            )
        except UsageError as error:
            raise Unavailable(f"{error}; WANDB_API_KEY belongs in the drivers' environment") from error
        # wandb's own count only grows, but after a restart some steps are sent again.
        run.define_metric("step", hidden=True)
        run.define_metric("*", step_metric="step")
        self._run = run
        at = f"on disk in {Path(run.dir).parent}" if offline else f"at {run.url}"
        return f"curves go to Weights & Biases, project {self._where.project}, run {self._id}, {at}"

    def send(self, points: list[Point]) -> None:
        """Hand the points over to wandb's process, without waiting."""
        assert self._run is not None
        for point in points:
            self._run.log({"step": point.step, **point.values})

    def close(self, status: Status) -> None:
        """Wait until all points are sent, for FINISH_SECONDS at most."""
        if self._run is not None:
            self._run.finish(exit_code=0 if status == "finished" else 1)
