"""The metrics that Prometheus reads."""

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from pipeline.job.events import EventBody

LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
STAGE_BUCKETS = (1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 12 * 3600, 48 * 3600)


class Metrics:
    """The counters of one API process. `count_jobs` returns the jobs by status; every scrape calls it."""

    def __init__(self, count_jobs: Callable[[], Mapping[str, int]]) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_Jobs(count_jobs))
        self._requests = Counter(
            "secateur_http_requests", "HTTP requests.", ("method", "route", "status"), registry=self.registry
        )
        self._latency = Histogram(
            "secateur_http_request_seconds",
            "Time until the answer began.",
            ("method", "route"),
            buckets=LATENCY_BUCKETS,
            registry=self.registry,
        )
        self._attempts = Counter(
            "secateur_attempts", "Attempts by how they ended.", ("outcome",), registry=self.registry
        )
        self._firings = Counter(
            "secateur_firings",
            "Firings of schedules by outcome.",
            ("outcome",),
            registry=self.registry,
        )
        self._stages = Histogram(
            "secateur_stage_seconds",
            "Time that stages took.",
            ("stage",),
            buckets=STAGE_BUCKETS,
            registry=self.registry,
        )
        self._cache = Counter(
            "secateur_stages",
            "Finished stages, run or found in the cache.",
            ("stage", "cached"),
            registry=self.registry,
        )

        self._rounds = Histogram(
            "secateur_dispatcher_round_seconds",
            "Time of one round of the dispatcher, which looks at every job that runs.",
            buckets=LATENCY_BUCKETS,
            registry=self.registry,
        )

    def request(self, *, method: str, route: str, status: int, seconds: float) -> None:
        """Count an HTTP request that was answered."""
        self._requests.labels(method, route, str(status)).inc()
        self._latency.labels(method, route).observe(seconds)

    def attempt_ended(self, outcome: str) -> None:
        """Count an attempt that ended."""
        self._attempts.labels(outcome).inc()

    def round_took(self, seconds: float) -> None:
        """Count a round of the dispatcher."""
        self._rounds.observe(seconds)

    def fired(self, outcome: str) -> None:
        """Count a firing of a schedule whose outcome was decided."""
        self._firings.labels(outcome).inc()

    def saw(self, body: EventBody) -> None:
        """Count a stage, if the event that a driver reported says that one finished."""
        if body.type != "stage.finished":
            return
        stage = body.result.node.partition(":")[0]
        self._cache.labels(stage, str(body.result.cached).lower()).inc()
        if not body.result.cached:
            self._stages.labels(stage).observe(body.result.measured.seconds)

    def exposition(self) -> bytes:
        """The metrics in Prometheus's text format."""
        return generate_latest(self.registry)


class _Jobs(Collector):
    def __init__(self, count_jobs: Callable[[], Mapping[str, int]]) -> None:
        self._count_jobs = count_jobs

    def describe(self) -> Iterable[Metric]:
        """Describe the gauge without its samples, so that registration makes no database query."""
        return [GaugeMetricFamily("secateur_jobs", "Jobs by status.", labels=["status"])]

    def collect(self) -> Iterable[Metric]:
        """Count the jobs with one database query for each scrape."""
        family = GaugeMetricFamily("secateur_jobs", "Jobs by status.", labels=["status"])
        for status, count in self._count_jobs().items():
            family.add_metric([status], count)
        yield family
