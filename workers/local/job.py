"""A whole job in this process, with the same DAG, stages and keys as on a cluster."""

from pipeline.canonical import digest_of
from pipeline.checkpoint.inspection import inspect
from pipeline.job.ledger import JobResult, WorkOrder
from pipeline.request.prune_spec import JobRequest
from pipeline.resolve.resolve import resolve
from pipeline.serving.available import check_available
from workers.job import run_job
from workers.local.site import LocalSite
from workers.reporter import Reporter
from workers.settings import WorkerSettings


def order_for(request: JobRequest, settings: WorkerSettings) -> WorkOrder:
    """The order of a job without a service. Raises the errors of `POST /jobs` for sources that cannot be
    used."""
    check_available(request.spec.target, settings)
    pins = resolve(request.spec, settings.access(), inspect=inspect)
    return WorkOrder(job=f"local-{digest_of(request)[:12]}", attempt=1, request=request, pins=pins)


def run_here(request: JobRequest, settings: WorkerSettings, reporter: Reporter) -> JobResult:
    """Run a job to its end. Raises AttemptEnded when a stage fails, after reporting why."""
    order = order_for(request, settings)
    return run_job(order, settings, reporter, LocalSite(order))
