"""The entrypoint of one attempt, started by Ray as `python -m workers.driver --job J --attempt N`."""

import argparse
import logging

import ray

from pipeline.job.events import AttemptFailed
from pipeline.job.ledger import WorkOrder, order_key
from workers.failures import reason_for
from workers.gang.site import RaySite
from workers.job import AttemptEnded, leave, run_job
from workers.reporter import ApiReporter, LinesReporter, Reporter
from workers.settings import WorkerSettings

log = logging.getLogger("secateur.driver")


def main() -> None:
    """Work on an attempt. Exit codes: 0 the job is done, 1 the attempt failed (the reason was reported)."""
    parser = argparse.ArgumentParser(
        prog="python -m workers.driver", description="Work on one attempt of a job."
    )
    parser.add_argument("--job", required=True)
    parser.add_argument("--attempt", required=True, type=int)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)

    settings = WorkerSettings()
    order = settings.content().get_model(order_key(arguments.job, arguments.attempt), WorkOrder)
    reporter: Reporter = ApiReporter(order) if order.report_to else LinesReporter()
    ray.init(log_to_driver=True, logging_level=logging.WARNING)
    code = 0
    try:
        run_job(order, settings, reporter, RaySite(order))
    except AttemptEnded as end:
        log.error("attempt %d of %s failed: %s", order.attempt, order.job, end.reason.message)
        code = 1
    except Exception as error:
        log.exception("attempt %d of %s broke", order.attempt, order.job)
        reporter.emit(AttemptFailed(reason=reason_for(error, node=None)))
        code = 1
    reporter.close(settings.report_deadline_seconds)
    leave(code)


if __name__ == "__main__":
    main()
