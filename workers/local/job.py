"""A whole job in this process, with the same DAG, stages and keys as on a cluster."""

import secrets

from pipeline.canonical import digest_of
from pipeline.checkpoint.inspection import inspect
from pipeline.errors import SourceNotFound
from pipeline.job.ledger import JobResult, WorkOrder, job_result_key, order_key
from pipeline.request.prune_spec import JobRequest
from pipeline.resolve.resolve import resolve
from pipeline.serving.available import check_available
from workers.job import run_job
from workers.local.site import LocalSite
from workers.reporter import Reporter
from workers.settings import WorkerSettings

AGAIN = "-again-"  # in the ids of jobs that reproduce others


def order_for(request: JobRequest, settings: WorkerSettings) -> WorkOrder:
    """The order of a job without a service, stored so that the job can be reproduced. Raises the errors of
    `POST /jobs` for sources that cannot be used."""
    spec = request.spec
    check_available(spec.target, settings, tasks=spec.evaluation.tasks)
    pins = resolve(spec, settings.access(), inspect=inspect)
    order = WorkOrder(job=f"local-{digest_of(request)[:12]}", attempt=1, request=request, pins=pins)
    return _stored(order, settings)


def order_again(job: str | None, settings: WorkerSettings) -> WorkOrder:
    """The order to do the work of a finished job again. `job` may be left out if there is only one. Raises
    SourceNotFound that names the jobs there are."""
    content = settings.content()
    keys = [found.key for found in content.store.list("jobs/")]
    finished = [name for key in keys if job_result_key(name := key.split("/")[1]) == key]
    firsts = [name for name in finished if order_key(name, 1) in keys]
    originals = [name for name in firsts if AGAIN not in name]
    if job is None and len(originals) == 1:
        job = originals[0]
    if job not in firsts:
        asked = "name one of the finished jobs" if job is None else f"there is no finished job {job}"
        raise SourceNotFound(f"{asked} in {settings.storage_url}: {', '.join(firsts) or 'there is none'}")
    first = content.get_model(order_key(job, 1), WorkOrder)
    again = f"{first.reproduces or job}{AGAIN}{secrets.token_hex(4)}"
    return _stored(first.model_copy(update={"job": again, "reproduces": job}), settings)


def run_here(order: WorkOrder, settings: WorkerSettings, reporter: Reporter) -> JobResult:
    """Run a job to its end. Raises AttemptEnded when a stage fails, after reporting why."""
    return run_job(order, settings, reporter, LocalSite(order))


def _stored(order: WorkOrder, settings: WorkerSettings) -> WorkOrder:
    settings.content().put_model(order_key(order.job, order.attempt), order)
    return order
