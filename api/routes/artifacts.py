"""The artifacts of a job, file by file, and its report."""

from typing import Annotated, Literal

from fastapi import APIRouter, Header, Path, Query
from fastapi.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse

from api.routes.answers import ABSENT
from api.routes.requests import JobId, ServicesDep
from api.service.jobs import artifacts
from api.service.jobs.views import ArtifactList
from pipeline.artifacts.refs import ReportRef

router = APIRouter(tags=["jobs"])
NAME = Path(max_length=200)
# The files of checkpoints come from others, so browsers shall save them and run nothing in them.
DOWNLOAD = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "sandbox; default-src 'none'"}
PAGE = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:",
}


@router.get("/jobs/{id}/artifacts", responses=ABSENT)
def list_artifacts(services: ServicesDep, job_id: JobId) -> ArtifactList:
    """All artifacts that the job has made so far, with digests."""
    return artifacts.list_all(services, job_id)


@router.get(
    "/jobs/{id}/artifacts/{node}/{artifact}/{path:path}",
    response_class=Response,
    responses={
        **ABSENT,
        200: {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}},
        307: {"description": "`Location` is an address in the storage, which is valid for a while."},
    },
)
def download(
    services: ServicesDep,
    job_id: JobId,
    node: Annotated[str, NAME],
    artifact: Annotated[str, NAME],
    path: Annotated[str, Path(max_length=1000)],
) -> Response:
    """One file. Its digest is checked while it is sent, and the answer of an altered file ends early."""
    blob = artifacts.blob_of(services, job_id, node=node, artifact=artifact, path=path)
    filename = path.rsplit("/", 1)[-1]
    direct = artifacts.direct_url(services, blob, filename=filename)
    if direct is not None:
        return RedirectResponse(direct, status_code=307)
    headers = {
        **DOWNLOAD,
        "Content-Length": str(blob.size),
        "Content-Disposition": f'attachment; filename="{_plain(filename)}"',
        "ETag": f'"{blob.digest}"',
    }
    content = artifacts.verified(services, blob)
    return StreamingResponse(content, media_type="application/octet-stream", headers=headers)


@router.get(
    "/jobs/{id}/report",
    response_class=Response,
    responses={
        **ABSENT,
        200: {
            "content": {
                "application/json": {"schema": {"type": "object"}},
                "text/html": {"schema": {"type": "string"}},
            }
        },
    },
)
def show_report(
    services: ServicesDep,
    job_id: JobId,
    format: Annotated[  # noqa: A002
        Literal["json", "html"] | None, Query(description="Instead of Accept.")
    ] = None,
    accept: Annotated[str, Header(description="`text/html` gives the page.")] = "",
) -> Response:
    """The report: every figure as JSON, or one page."""
    if format == "html" or (format is None and _prefers_html(accept)):
        return HTMLResponse(artifacts.report_file(services, job_id, ReportRef.PAGE), headers=PAGE)
    return Response(artifacts.report_file(services, job_id, ReportRef.JSON), media_type="application/json")


def _prefers_html(accept: str) -> bool:
    """Tells whether Accept prefers text/html to JSON; among equals, the first one wins."""
    best, best_quality = "", 0.0
    for part in accept.split(","):
        media, _, parameters = part.partition(";")
        quality = _quality(parameters)
        if media.strip() in ("text/html", "application/json") and quality > best_quality:
            best, best_quality = media.strip(), quality
    return best == "text/html"


def _quality(parameters: str) -> float:
    name, _, value = parameters.strip().partition("=")
    try:
        return float(value) if name == "q" else 1.0
    except ValueError:
        return 0.0


def _plain(filename: str) -> str:
    return "".join(c if c.isascii() and c.isprintable() and c not in '"\\' else "_" for c in filename)
