"""Everything that routes and the dispatcher share."""

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
    """The wall clock."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class Services:
    """`resolve` pins the sources of a spec, `access` says which may be read. `wake` is set when the
    dispatcher should look at once, `wake_scheduler` when the scheduler should; its clock is `now`."""

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
