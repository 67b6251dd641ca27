"""Whether this worker has the lm-eval whose figures are asked for; asked before any of it is imported."""

from importlib.metadata import PackageNotFoundError, version

from pipeline.errors import WrongHarness


def check_installed(expected: str) -> None:
    """Raise WrongHarness unless it is the installed one."""
    try:
        installed = version("lm_eval")
    except PackageNotFoundError:
        installed = "none"
    if installed != expected:
        raise WrongHarness(
            f"the job's figures are those of lm-eval {expected}, and this worker has {installed}; install "
            f"lm_eval=={expected} where workers run"
        )
