"""The typed parameters that routes take from a request."""

import re
from typing import Annotated

from fastapi import Depends, Header, Path, Query, Request

from api.service.context import Services
from api.service.ids import JOB_ID_PATTERN
from api.service.jobs.followers import Followers
from api.service.jobs.jobs import no_such_job
from api.service.jobs.tails import Tails

EXAMPLE_ID = "job-0cs4b3vmf0hd8jms4t2q"
MAX_INT = 2**31 - 1
MAX_ID = 2**63 - 1
LAST_SECOND = 253_402_300_799  # of the year 9999


def _services(request: Request) -> Services:
    services = request.app.state.services
    assert isinstance(services, Services)
    return services


def _followers(request: Request) -> Followers:
    followers = request.app.state.followers
    assert isinstance(followers, Followers)
    return followers


def _tails(request: Request) -> Tails:
    tails = request.app.state.tails
    assert isinstance(tails, Tails)
    return tails


def _job_id(id: Annotated[str, Path(description="Id of a job.", examples=[EXAMPLE_ID])]) -> str:  # noqa: A002
    if not re.fullmatch(JOB_ID_PATTERN, id):
        raise no_such_job(id)
    return id


ServicesDep = Annotated[Services, Depends(_services)]
FollowersDep = Annotated[Followers, Depends(_followers)]
TailsDep = Annotated[Tails, Depends(_tails)]
JobId = Annotated[str, Depends(_job_id)]
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        description="A repeat with the same key and body gives the same job.",
        pattern=r"^[!-~]{1,255}$",
    ),
]
Limit = Annotated[int, Query(ge=1, le=1000, description="Size of a page.")]
JobCursor = Annotated[
    str | None,
    Query(alias="after", pattern=JOB_ID_PATTERN, description="`next` of the page before."),
]
EventCursor = Annotated[
    int | None, Query(alias="after", ge=0, le=MAX_ID, description="`next` of the page before.")
]
Moment = Annotated[int | None, Query(ge=0, le=LAST_SECOND, description="Unix seconds.")]
AttemptNumber = Annotated[
    int | None, Query(ge=1, le=MAX_INT, description="Number of the attempt. Left out: the latest.")
]
