"""A service whose clock and scheduler advance only when the test says so, and jobs that end as it wants."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from api.background.scheduler import Scheduler
from api.service.context import Services
from api.service.schedules.aliases import pointer_key
from api.settings import Settings
from pipeline.report.data import ReportData
from tests.api import played
from tests.api.conftest import RunningApi, running

START = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)
NOON = {"expression": "0 12 * * *"}
PASSES = "perplexity <= 3 * dense"


@dataclass
class Clock:
    """A clock that stands still until the test moves it."""

    now: datetime = START

    def __call__(self) -> datetime:
        return self.now

    def go(self, **duration: float) -> None:
        self.now += timedelta(**duration)


@dataclass
class Scene:
    """An API without a dispatcher; sources below `root` may be read."""

    api: RunningApi
    root: Path
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        self.api.app.state.services = replace(self.api.services, now=self.clock)
        self.scheduler = Scheduler(self.api.services, owner="the test")

    def another(self, owner: str, **changes: Any) -> Scheduler:
        """The scheduler of another process."""
        services: Services = replace(self.api.services, **changes)
        return Scheduler(services, owner=owner)

    def create(self, **given: Any) -> dict[str, Any]:
        """POST /schedules."""
        answer = self.api.client.post("/schedules", json={"name": "nightly", **given})
        assert answer.status_code == 201, answer.text
        made: dict[str, Any] = answer.json()
        return made

    def round(self, **duration: float) -> None:
        """Move the clock, then let the scheduler work once."""
        self.clock.go(**duration)
        self.scheduler.round()

    def schedule(self, name: str = "nightly") -> dict[str, Any]:
        answer = self.api.client.get(f"/schedules/{name}")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def states(self, name: str = "nightly") -> dict[str, str]:
        """The state of each candidate, by the last part of its path."""
        found = self.schedule(name)["candidates"]
        return {one["source"].rpartition("/")[2]: one["state"] for one in found}

    def firings(self, name: str = "nightly") -> list[dict[str, Any]]:
        """Oldest first."""
        found: list[dict[str, Any]] = self.api.client.get(f"/schedules/{name}/firings").json()["data"]
        return found[::-1]

    def outcomes(self, name: str = "nightly") -> list[str]:
        return [firing["outcome"] for firing in self.firings(name)]

    def jobs(self) -> list[dict[str, Any]]:
        """Oldest first."""
        found: list[dict[str, Any]] = self.api.client.get("/jobs?limit=1000").json()["data"]
        return found[::-1]

    def succeed(self, job: str, data: ReportData | None = None) -> None:
        """Finish a job whose perplexity goes from 19.5 to 43.2, or with another report."""
        played.succeed(self.api, job, data)

    def pointer(self, name: str) -> dict[str, Any] | None:
        """The pointer of an alias in storage, as inference servers see it."""
        store = self.api.services.content.store
        if store.stat(pointer_key(name)) is None:
            return None
        found: dict[str, Any] = json.loads(b"".join(store.get(pointer_key(name))))
        return found


@contextmanager
def scene(settings: Settings, root: Path) -> Iterator[Scene]:
    """A scene with the real resolver."""
    with running(settings, resolver=None) as api:
        yield Scene(api, root)


def template(root: Path, *, model: str | None = None, **beside: Any) -> dict[str, Any]:
    """A template with magnitude pruning, evaluated on the text that `scene_root` has."""
    spec: dict[str, Any] = {
        "prune": {"method": {"kind": "magnitude"}, "pattern": {"kind": "unstructured", "sparsity": 0.5}},
        "evaluation": {"perplexity": [{"source": f"file:{root}/text.txt", "sequence_length": 32}]},
    }
    if model is not None:
        spec["model"] = {"source": f"file:{root}/{model}"}
    return {"spec": spec, **beside}
