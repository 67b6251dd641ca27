"""The application: `create_app(settings)`, and `serve(settings)` to run it."""

import contextlib
import logging
import logging.config
from collections.abc import AsyncIterator, Callable
from functools import partial
from threading import Event

import uvicorn
from fastapi import Depends, FastAPI
from fastapi.concurrency import run_in_threadpool

from api import errors
from api.background.dispatcher import Dispatcher
from api.background.scheduler import Scheduler
from api.db.engine import Database
from api.db.migrate import upgrade
from api.embedded import EmbeddedRay
from api.inspector import InspectorProcess, can_inspect
from api.metrics import Metrics
from api.middleware import REQUEST_ID, BodyLimit, RequestLog
from api.routes import (
    aliases,
    artifacts,
    compare,
    events,
    internal,
    jobs,
    keys,
    logs,
    plans,
    schedules,
    service,
    session,
    web,
)
from api.routes.access import Needs
from api.routes.answers import KEYED
from api.service.context import Services
from api.service.jobs.attempts import jobs_by_status
from api.service.jobs.followers import Followers
from api.service.jobs.tails import Tails
from api.service.keys import first_keys
from api.service.keys.keys import active_among
from api.service.resolving import LimitedResolver
from api.settings import Settings
from api.submit import RayJobsClient, cluster
from pipeline.request.prune_spec import PruneSpec
from pipeline.resolve.resolve import Inspector, resolve
from pipeline.serving.available import check_available
from pipeline.sources.pins import Pins

# Who may call which routes. New routers belong into the first: viewers may GET, submitters may do the rest.
BY_METHOD = (
    keys.own,
    *(module.router for module in (jobs, plans, compare, events, logs, artifacts, schedules, aliases)),
)
ADMINS = (keys.router,)
# These need no key; `internal` needs the token of the attempt instead.
OPEN = (web.router, service.router, session.router, internal.router)
GRACE_SECONDS = 5  # streams may continue this long when the service is stopped

Resolver = Callable[[PruneSpec], Pins]


def create_app(settings: Settings, *, resolver: Resolver | None = None, dispatch: bool = True) -> FastAPI:
    """Builds the service. `resolver` replaces the one that pins sources by the settings. Without `dispatch`,
    jobs stay queued and schedules do not fire (for tests, and beside another API that dispatches)."""
    database = Database(settings.database_url)
    embedded = _embedded(settings) if settings.ray_address is None else None
    if settings.ray_address is None:
        assert embedded is not None
        endpoint = embedded.endpoint
    else:
        endpoint = cluster(settings.ray_address, settings.ray_token_path)
    metrics = Metrics(lambda: jobs_by_status(database))
    access = settings.access()
    inspector = None
    if settings.inspect_models == "auto" and can_inspect():
        inspector = InspectorProcess(seconds=settings.inspect_seconds)
    resolving = LimitedResolver(
        resolver or partial(_resolved, settings=settings, inspect=inspector),
        at_once=settings.resolve_at_once,
        seconds=settings.resolve_seconds,
    )
    services = Services(
        settings=settings,
        database=database,
        content=settings.content(),
        ray=RayJobsClient(endpoint),
        resolve=resolving,
        metrics=metrics,
        wake=Event(),
        access=access,
    )
    dispatcher = Dispatcher(services, embedded) if dispatch else None
    scheduler = Scheduler(services) if dispatch else None

    app = FastAPI(
        title="Secateur",
        summary="A pruning service for large language models.",
        version="0.1.0",
        redirect_slashes=False,  # Starlette redirects to whatever Host the request names
        lifespan=partial(
            _lifespan,
            services=services,
            dispatcher=dispatcher,
            scheduler=scheduler,
            closing=(resolving, *(() if inspector is None else (inspector,))),
        ),
    )
    app.state.services = services
    app.state.followers, app.state.tails = (
        Followers(database, most=settings.max_streams, valid=active_among),
        Tails(),
    )
    app.add_middleware(
        BodyLimit, limit=settings.max_body_bytes, closed=partial(_needs_key, auth=settings.auth)
    )
    app.add_middleware(RequestLog, metrics=metrics)
    errors.install(app)
    for routers, needs in ((BY_METHOD, Needs()), (ADMINS, Needs("admin"))):
        for router in routers:
            app.include_router(router, dependencies=[Depends(needs)], responses=KEYED)
    for router in OPEN:
        app.include_router(router)
    return app


def _needs_key(path: str, *, auth: str) -> bool:
    """Tells whether a request with a body to this path needs a key."""
    return auth == "keys" and path != "/session" and not path.startswith("/internal/")


def _resolved(spec: PruneSpec, settings: Settings, inspect: Inspector | None) -> Pins:
    """Pin the sources of a spec whose targets and engine the workers have."""
    check_available(spec.target, settings, tasks=spec.evaluation.tasks)
    return resolve(spec, settings.access(), inspect=inspect)


def serve(settings: Settings | None = None) -> None:
    """Run the service until a signal stops it."""
    settings = settings or Settings()
    logging.config.dictConfig(_logging(settings.log_level))
    uvicorn.run(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )


@contextlib.asynccontextmanager
async def _lifespan(
    app: FastAPI,
    *,
    services: Services,
    dispatcher: Dispatcher | None,
    scheduler: Scheduler | None,
    closing: tuple[LimitedResolver | InspectorProcess, ...],
) -> AsyncIterator[None]:
    await run_in_threadpool(upgrade, services.database)
    await run_in_threadpool(first_keys.prepare, services.settings, services.database)
    if dispatcher is not None:
        dispatcher.start()
    if scheduler is not None:
        scheduler.start()
    try:
        yield
    finally:
        if scheduler is not None:
            await run_in_threadpool(scheduler.stop)
        if dispatcher is not None:
            await run_in_threadpool(dispatcher.stop)
        for part in closing:
            await run_in_threadpool(part.close)
        services.ray.close()
        services.database.close()


def _embedded(settings: Settings) -> EmbeddedRay:
    environment = settings.driver_environment() | settings.secret_environment()
    return EmbeddedRay(settings.state_dir, environment=environment, num_cpus=settings.ray_num_cpus)


class _WithRequestId(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        """Add the id of the request to a log line."""
        record.request_id = REQUEST_ID.get()
        return True


def _logging(level: str) -> dict[str, object]:
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "filters": {"request": {"()": _WithRequestId}},
        "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s [%(request_id)s] %(message)s"}},
        "handlers": {
            "stderr": {"class": "logging.StreamHandler", "formatter": "line", "filters": ["request"]}
        },
        "loggers": {"httpx": {"level": "WARNING"}, "alembic": {"level": "WARNING"}},
        "root": {"level": level, "handlers": ["stderr"]},
    }


if __name__ == "__main__":
    serve()
