"""Everything that routes and the dispatcher share."""

from collections.abc import Callable
from dataclasses import dataclass
from threading import Event

from api.db.engine import Database
from api.metrics import Metrics
from api.settings import Settings
from api.submit import RayJobsClient
from pipeline.sources.pins import Pins
from pipeline.spec import PruneSpec
from pipeline.storage import ContentStore


@dataclass(frozen=True)
class Services:
    """`resolve` pins the sources of a spec. `wake` is set when the dispatcher should look at once."""

    settings: Settings
    database: Database
    content: ContentStore
    ray: RayJobsClient
    resolve: Callable[[PruneSpec], Pins]
    metrics: Metrics
    wake: Event
