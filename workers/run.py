"""`python -m workers.run SPEC --storage DIR` runs a job without an API, on a Ray of its own or in this
process.

It writes one DriverEvent as JSON per line on standard output; logs go to standard error.
"""

import argparse
import logging
import os
import sys
import tempfile
from pathlib import Path

import ray
from pydantic import ValidationError

from pipeline.job.events import AttemptFailed
from pipeline.plain_yaml import read_yaml
from pipeline.request.prune_spec import JobRequest
from workers.failures import reason_for
from workers.gang.site import RaySite
from workers.job import AttemptEnded, leave, run_job
from workers.local.job import order_again, order_for, run_here
from workers.reporter import LinesReporter
from workers.settings import WorkerSettings
from workers.waiting import FIXED


def main() -> None:
    """Run a job. Exit codes: 0 the job is done, 1 the job failed (its last event says why)."""
    parser = argparse.ArgumentParser(prog="python -m workers.run", description="Run a spec on a local Ray.")
    work = parser.add_mutually_exclusive_group(required=True)
    work.add_argument("spec", nargs="?", type=Path, help="JobRequest as YAML or JSON")
    work.add_argument(
        "--reproduce",
        nargs="?",
        const="",
        metavar="JOB",
        help="a finished job of that storage, whose work is done again and compared; the only one",
    )
    parser.add_argument(
        "--storage", required=True, type=Path, help="directory for results and the stage cache"
    )
    parser.add_argument("--here", action="store_true", help="in this process, without Ray")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")

    request = None
    if arguments.spec is not None:
        try:
            request = JobRequest.model_validate(read_yaml(arguments.spec.read_text()))
        except ValidationError as error:
            parser.error(f"{arguments.spec}: {error}")
    os.environ.setdefault("SECATEUR_ALLOWED_ROOTS", "/")  # a local run reads what its user may read
    os.environ["SECATEUR_STORAGE_URL"] = arguments.storage.resolve().as_uri()
    settings = WorkerSettings()
    reporter = LinesReporter()
    code = 0
    try:
        again = arguments.reproduce or None
        order = order_for(request, settings) if request is not None else order_again(again, settings)
        if arguments.here:
            run_here(order, settings, reporter)
            leave(code)
        with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as directory:
            _start_ray(Path(directory))
            run_job(order, settings, reporter, RaySite(order))
            ray.shutdown()
    except AttemptEnded:
        code = 1
    except Exception as error:
        logging.exception("the job could not be run")
        reporter.emit(AttemptFailed(reason=reason_for(error, node=None)))
        code = 1
    leave(code)


def _start_ray(directory: Path) -> None:
    """Start a Ray that ends with this process, whatever else runs on this machine."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    ray.init(
        address="local",
        labels=FIXED,
        _temp_dir=str(directory),
        include_dashboard=False,
        log_to_driver=False,
    )


if __name__ == "__main__":
    main()
