"""Any exception becomes a FailureReason, which tells the user why, and whether trying again may help."""

import ray.exceptions
from ray.exceptions import RayError, RayTaskError

from pipeline.errors import SecateurError, WorkerLost
from pipeline.job.events import FailureReason

LOST = (
    ray.exceptions.RayActorError,
    ray.exceptions.WorkerCrashedError,
    ray.exceptions.NodeDiedError,
    ray.exceptions.ObjectLostError,
    ray.exceptions.OutOfMemoryError,
    ray.exceptions.RaySystemError,
    ray.exceptions.LocalRayletDiedError,
)


def unwrapped(error: BaseException) -> BaseException:
    """The error inside Ray's wrapping. Errors of lost processes become WorkerLost."""
    while isinstance(error, RayTaskError) and error.cause is not None and error.cause is not error:
        error = error.cause
    if isinstance(error, LOST):
        detail = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        return WorkerLost(f"a worker died: {type(error).__name__}: {detail}")
    return error


def reason_for(error: BaseException, *, node: str | None) -> FailureReason:
    """The reason that an event reports. Errors that are not Secateur's keep their type's name, and count as
    retryable."""
    error = unwrapped(error)
    if isinstance(error, SecateurError):
        return FailureReason(
            code=error.code, message=error.message, param=error.param, node=node, retryable=error.retryable
        )
    message = f"{type(error).__name__}: {error}" if not isinstance(error, RayError) else str(error)
    return FailureReason(code="internal_error", message=message[:2000], node=node, retryable=True)


def error_for(reason: FailureReason) -> SecateurError:
    """The error that a reason was made from, with its class."""
    kinds = [SecateurError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    kind = next((kind for kind in kinds if kind.code == reason.code), SecateurError)
    return kind(reason.message, reason.param)


def may_go_on(error: BaseException) -> bool:
    """Tells whether the stage may be tried again within this attempt, as after a lost worker or when the
    store was unavailable."""
    error = unwrapped(error)
    return isinstance(error, SecateurError) and error.retryable
