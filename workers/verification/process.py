"""Starts a fresh process that opens a model, and reads its answer."""

import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from pipeline.errors import VerificationFailed, WorkerLost
from workers.verification.answer import Answer, Opening

ALONE = {
    "CUDA_VISIBLE_DEVICES": "",  # logits are compared on the CPU
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
LAST_LINES = 20


class OpeningProcess:
    """A process that imports its libraries while this one fetches and checks files, and then opens them.

    It gets nothing of this process but environment and import path. `aside`: a directory for what it says.
    """

    def __init__(self, aside: Path, *, threads: int) -> None:
        self._answer, self._log = aside / "answer.json", aside / "log.txt"
        path = os.pathsep.join(part for part in sys.path if part)
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "workers.verification", str(self._answer)],
                env={**os.environ, **ALONE, "PYTHONPATH": path, "OMP_NUM_THREADS": str(threads)},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the process if it still runs, because a check before it has failed."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()

    def open(self, opening: Opening) -> Answer:
        """Returns what the process found. Raises WorkerLost when it was killed, VerificationFailed when it
        broke."""
        self._process.communicate(opening.model_dump_json().encode())
        code = self._process.returncode
        said = "\n".join(self._log.read_text(errors="replace").splitlines()[-LAST_LINES:])
        if code < 0:
            raise WorkerLost(
                f"the process that opened the published model was ended by signal {-code}, perhaps for its "
                f"memory; its last words: {said}"
            )
        if code or not self._answer.is_file():
            raise VerificationFailed(f"the process that opened the published model broke:\n{said}")
        return Answer.model_validate_json(self._answer.read_bytes())
