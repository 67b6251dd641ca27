"""The objects that routes, the dispatcher and the scheduler share."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from threading import Event

from api.db.engine import Database
from api.metrics import Metrics
from api.settings import Settings
from api.submit import RayJobsClient
from pipeline.request.prune_spec import PruneSpec
from pipeline.sources.access import SourceAccess
from pipeline.sources.pins import Pins
from pipeline.storage import ContentStore


def utc_now() -> datetime:
    """The time of the wall clock."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class Services:
    """The shared objects. `resolve` pins the sources of a spec, `access` says which may be read. `wake` makes
    the dispatcher begin a round at once, and `wake_scheduler` the scheduler, whose clock is `now`."""

    settings: Settings
    database: Database
    content: ContentStore
    ray: RayJobsClient
    resolve: Callable[[PruneSpec], Pins]
    metrics: Metrics
    wake: Event
    access: SourceAccess
    wake_scheduler: Event = field(default_factory=Event)
    now: Callable[[], datetime] = utc_now
