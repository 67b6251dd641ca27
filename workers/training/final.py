"""Failures of training that no other try gets past: they are stored, and whoever starts again finds them.

Ray Train starts a group of workers again whatever ended it. A worker that fails by itself stores the reason.
One that was ended for want of memory cannot; Ray Train's controller then stores it in its place.
"""

import logging

from ray.train import UserCallback

from pipeline.canonical import Frozen
from pipeline.job.events import FailureReason
from pipeline.job.ledger import progress_key
from pipeline.request.parts import WorkerShare
from workers.failures import reason_for
from workers.kills import Began, ended_by_kernel, killed_for_memory
from workers.training.work import Work

log = logging.getLogger(__name__)
FAILURE = "failed"  # a name below the stage's progress key


class Failure(Frozen):
    """The reason why training cannot continue. It is kept until the driver has read it, so that no worker
    tries again."""

    reason: FailureReason


class NoSecondTry(UserCallback):
    """Stores the reason when a worker was ended for want of memory. It runs in Ray Train's controller."""

    def __init__(self, work: Work, share: WorkerShare) -> None:
        self._work = work
        self._share = share

    def after_exception(self, run_context: object, worker_exceptions: dict[int, Exception]) -> None:
        """See UserCallback; it is called before the workers start again. If the reason cannot be found out or
        stored, they start again as after any other death."""
        try:
            for rank, error in worker_exceptions.items():
                reason = self._reason(rank, getattr(error, "health_check_failure", error))
                if reason.code == "out_of_memory":
                    content = self._work.settings.content()
                    content.put_model(progress_key(self._work.key, FAILURE), Failure(reason=reason))
                    return
        except Exception:
            log.exception("the reason of a lost worker could not be found out or stored")

    def _reason(self, rank: int, error: Exception) -> FailureReason:
        kind = self._work.stage.kind
        began = self._work.settings.content().find_model(began_key(self._work, rank), Began)
        if began is not None and killed_for_memory(error, [began]):
            return reason_for(ended_by_kernel(kind, self._share), node=None)
        return reason_for(error, node=None, stage=kind, share=self._share)


def began_key(work: Work, rank: int) -> str:
    """The key under which a worker stores where it has begun."""
    return progress_key(work.key, f"began-{rank}")
