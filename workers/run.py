"""`python -m workers.run SPEC --storage DIR`: a job on a local Ray with no API at all.

Writes one DriverEvent as JSON per line on standard output; logs go to standard error.
"""

import argparse
import logging
import os
import sys
import tempfile
from pathlib import Path

import ray
import yaml
from pydantic import ValidationError

from pipeline.canonical import digest_of
from pipeline.errors import SecateurError
from pipeline.job.events import AttemptFailed
from pipeline.job.ledger import WorkOrder
from pipeline.request.prune_spec import JobRequest
from pipeline.resolve.resolve import resolve
from workers.failures import reason_for
from workers.job import AttemptEnded, leave, run_job
from workers.reporter import LinesReporter
from workers.settings import WorkerSettings


def main() -> None:
    """Exit codes: 0 all is made, 1 the job failed (its last event tells why)."""
    parser = argparse.ArgumentParser(prog="python -m workers.run", description="Run a spec on a local Ray.")
    parser.add_argument("spec", type=Path, help="JobRequest as YAML or JSON")
    parser.add_argument(
        "--storage", required=True, type=Path, help="directory for results and the stage cache"
    )
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")

    try:
        request = JobRequest.model_validate(yaml.safe_load(arguments.spec.read_text()))
    except ValidationError as error:
        parser.error(f"{arguments.spec}: {error}")
    os.environ.setdefault("SECATEUR_ALLOWED_ROOTS", "/")  # a local run reads what its user may read
    os.environ["SECATEUR_STORAGE_URL"] = f"file://{arguments.storage.resolve()}"
    settings = WorkerSettings()
    reporter = LinesReporter()
    code = 0
    try:
        pins = resolve(request.spec, settings.access())
        order = WorkOrder(job=f"local-{digest_of(request)[:12]}", attempt=1, request=request, pins=pins)
        with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as directory:
            _start_ray(Path(directory))
            run_job(order, settings, reporter)
            ray.shutdown()
    except SecateurError as error:
        reporter.emit(AttemptFailed(reason=reason_for(error, node=None)))
        code = 1
    except AttemptEnded:
        code = 1
    leave(code)


def _start_ray(directory: Path) -> None:
    """A Ray of our own that ends with us, whatever else runs on this machine."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    ray.init(address="local", _temp_dir=str(directory), include_dashboard=False, log_to_driver=False)


if __name__ == "__main__":
    main()
