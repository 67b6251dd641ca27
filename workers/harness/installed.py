"""The check that this worker has the lm-eval that the job expects. It imports nothing of lm-eval."""

from importlib.metadata import PackageNotFoundError, version

from pipeline.errors import WrongHarness


def check_installed(expected: str) -> None:
    """Raise WrongHarness unless the expected version is installed."""
    try:
        installed = version("lm_eval")
    except PackageNotFoundError:
        installed = "none"
    if installed != expected:
        raise WrongHarness(
            f"the job's figures are those of lm-eval {expected}, and this worker has {installed}; install "
            f"lm_eval=={expected} where workers run"
        )
