"""Any exception becomes a FailureReason, which tells the user why, whose failure it is, and whether trying
again may help."""

import re

from ray.exceptions import OutOfMemoryError, RayActorError, RayError, RayTaskError

from pipeline.errors import SecateurError, WorkerLost, every_error
from pipeline.job.events import FailureReason
from pipeline.request.parts import WorkerShare
from workers.classified import bug, classified, out_of_memory

# Ray's memory monitor ends the process that grew last. An actor's error says so only by these words.
_MONITOR_WORDS = ("NODE_OUT_OF_MEMORY", "running low on memory")
_USED = re.compile(r"was (\S+ ?/ ?\S+)")


def error_of(
    error: BaseException, *, stage: str | None = None, share: WorkerShare | None = None
) -> SecateurError:
    """The error of pipeline/errors.py that stands for an exception, out of Ray's wrapping. What Ray itself
    reports is a lost worker, unless it says that our own code or the want of memory ended it."""
    trace = None
    while isinstance(error, RayTaskError):
        trace = str(error)
        if error.cause is None or error.cause is error:
            return _from_text(trace)
        error = error.cause
    if isinstance(error, RayActorError) and error.actor_init_failed:
        return _from_text(str(error))
    if _ended_by_monitor(error):
        used = _USED.search(str(error))
        said = f"Ray ended it while {used[1]} of the node's memory was used" if used else "Ray ended it"
        return out_of_memory(said, stage=stage, share=share, device=False)
    if isinstance(error, RayError):
        first = str(error).strip().splitlines()[:1]
        return WorkerLost(": ".join(["a worker died", type(error).__name__, *first]))
    return classified(error, stage=stage, share=share, trace=trace)


def reason_for(
    error: BaseException, *, node: str | None, stage: str | None = None, share: WorkerShare | None = None
) -> FailureReason:
    """The reason that an event reports. `stage`: the kind of stage that raised the error; `share`: the
    workers that it has."""
    known = error_of(error, stage=stage, share=share)
    return FailureReason(
        code=known.code,
        message=known.message,
        param=known.param,
        node=node,
        retryable=known.retryable,
        blame=known.blame,
    )


def error_for(reason: FailureReason) -> SecateurError:
    """The error that a reason was made from, with its class."""
    kind = next((kind for kind in every_error() if kind.code == reason.code), SecateurError)
    return kind(reason.message, reason.param)


def _ended_by_monitor(error: BaseException) -> bool:
    if isinstance(error, OutOfMemoryError):
        return True
    return isinstance(error, RayActorError) and any(word in str(error) for word in _MONITOR_WORDS)


def _from_text(trace: str) -> SecateurError:
    """The error at the end of a traceback, where Ray keeps no more than its text."""
    last = (trace.strip().splitlines() or ["the worker ended without a word"])[-1].strip()[:2000]
    name, _, message = last.partition(": ")
    for kind in every_error():
        if name.rpartition(".")[2] == kind.__name__:
            return kind(message)
    return bug(last, trace)
