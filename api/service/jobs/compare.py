"""The results of several jobs side by side, from their stored evaluations."""

from collections.abc import Sequence

from api.errors import ApiError
from api.service.context import Services
from api.service.jobs import journal
from api.service.jobs.jobs import find
from api.service.jobs.present import job_view
from api.service.jobs.views import ComparedJob, ComparisonView, JobView
from pipeline.artifacts.refs import ArtifactRef
from pipeline.dag.evaluation import task_node
from pipeline.evaluation.contracts import UnequalContracts
from pipeline.evaluation.job_comparison import JobFigures, compare_jobs
from pipeline.evaluation.task_results import TaskEvaluation
from pipeline.evaluation.task_samples import Judged, TaskSamples
from pipeline.job.ledger import NodeResult
from pipeline.report.summary import summary_line
from pipeline.request.prune_spec import PruneSpec
from pipeline.spec.evaluation import EvaluationResult


def compare(services: Services, job_ids: Sequence[str]) -> ComparisonView:
    """Compare the published models of jobs. Raises ApiError: 404 for an unknown job, 409 for one that has not
    succeeded, for a sweep, for figures under unequal contracts, and where the jobs share no text or task; 422
    for a job that is given twice."""
    repeated = next((job for i, job in enumerate(job_ids) if job in job_ids[:i]), None)
    if repeated is not None:
        raise ApiError(422, "invalid_parameter", f"job got {repeated} twice; name each job once", "job")
    jobs = [_job(services, job_id) for job_id in job_ids]
    figures = [_figures(services, job) for job in jobs]
    try:
        compared = compare_jobs(figures)
    except UnequalContracts as error:
        raise ApiError(409, error.code, error.message, "job") from None
    if not compared.figures:
        measured = "; ".join(f"{one.job}: {', '.join(one.names) or 'nothing'}" for one in figures)
        raise ApiError(
            409, "nothing_to_compare", f"the jobs were evaluated on nothing in common ({measured})", "job"
        )
    return ComparisonView(
        jobs=tuple(
            ComparedJob(
                id=job.id,
                name=job.name,
                model=job.model,
                recipe=summary_line(_spec(job)),
                final=_final(job),
            )
            for job in jobs
        ),
        **dict(compared),
    )


def _job(services: Services, job_id: str) -> JobView:
    try:
        return job_view(find(services, job_id))
    except ApiError as error:  # it names the field of other routes
        raise ApiError(error.status, error.code, error.message, "job") from None


def _figures(services: Services, job: JobView) -> JobFigures:
    if job.status != "succeeded":
        raise ApiError(
            409,
            "job_not_succeeded",
            f"job {job.id} is {job.status}; only finished jobs can be compared",
            "job",
        )
    if _spec(job).sweep is not None:
        raise ApiError(
            409,
            "job_is_a_sweep",
            f"job {job.id} is a sweep, whose report compares its members; run the chosen member as a job of "
            f"its own",
            "job",
        )
    with services.database.read() as session:
        results = journal.node_results(session, job.id)
    asked, final = _spec(job).evaluation.tasks, _final(job)

    def judged(which: str) -> tuple[Judged, ...]:
        found = []
        for task in asked.asked if asked is not None else ():
            artifact = _artifact(job, results, task_node(which, task.name), "tasks")
            evaluation = artifact.load(services.content, TaskEvaluation)
            found.append(Judged(evaluation, artifact.find(services.content, TaskSamples)))
        return tuple(found)

    def perplexities(which: str) -> EvaluationResult:
        artifact = _artifact(job, results, f"evaluate:{which}", "evaluation")
        return artifact.load(services.content, EvaluationResult)

    return JobFigures(
        job=job.id,
        dense=perplexities("dense"),
        final=perplexities(final),
        dense_tasks=judged("dense"),
        final_tasks=judged(final),
        suite=asked.suite if asked is not None else None,
        own_tokenizer=_spec(job).cuts_vocabulary,
    )


def _spec(job: JobView) -> PruneSpec:
    if job.spec is None or job.unread is not None:
        raise ApiError(409, "stored_by_another_version", job.unread or "the spec is not known", "job")
    return job.spec


def _final(job: JobView) -> str:
    """The name of the model that the job has published."""
    return "recovered" if _spec(job).recovery is not None else "pruned"


def _artifact(job: JobView, results: dict[str, NodeResult], node: str, artifact: str) -> ArtifactRef:
    found = results[node].artifacts.get(artifact) if node in results else None
    if found is None:
        raise ApiError(409, "not_evaluated", f"job {job.id} has no artifact {node}/{artifact}", "job")
    return found
