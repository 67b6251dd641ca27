"""Inspects submitted models in one process of its own, because that needs torch, which the API never loads.

The process starts with the first model, ends with the service, and ends when the service dies: it then reads
the end of its pipe.
"""

import importlib.util
import logging
import signal
import threading
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from pipeline.checkpoint.inspection import Inspection, inspect
from pipeline.errors import SecateurError

log = logging.getLogger(__name__)


def can_inspect() -> bool:
    """True where torch and transformers are installed; this loads neither."""
    return all(importlib.util.find_spec(name) is not None for name in ("torch", "transformers"))


class InspectorProcess:
    """Called with an Inspection, it raises what `inspect` raises. Where no answer comes within `seconds`, or
    the process fails, it logs that and lets the model pass: the job's first stage compares it again."""

    def __init__(self, *, seconds: float) -> None:
        self._seconds = seconds
        self._turn = threading.Lock()  # one model at a time
        self._process: BaseProcess | None = None
        self._pipe: Connection | None = None

    def __call__(self, asked: Inspection) -> None:
        """Inspect a model. Raises UnsupportedCheckpoint and InvalidSpec."""
        if not self._turn.acquire(timeout=self._seconds):
            log.warning("%s is not inspected: the inspector is busy with another model", asked.where)
            return
        try:
            answer = self._ask(asked)
        finally:
            self._turn.release()
        if isinstance(answer, SecateurError):
            raise answer
        if answer is not None:
            log.warning("%s is not inspected: %s", asked.where, answer)

    def close(self) -> None:
        """End the process, if there is one."""
        with self._turn:
            self._end()

    def _ask(self, asked: Inspection) -> SecateurError | str | None:
        try:
            pipe = self._running()
            pipe.send(asked)
            if pipe.poll(self._seconds):
                answer: SecateurError | str | None = pipe.recv()
                return answer
            reason = f"there was no answer within {self._seconds:g} s"
        except (OSError, EOFError) as error:
            reason = f"the process has ended ({type(error).__name__}: {error})"
        self._end()
        return reason

    def _running(self) -> Connection:
        """The pipe to the process, which is started if it does not run."""
        if self._pipe is None or self._process is None or not self._process.is_alive():
            self._end()
            context = get_context("spawn")  # a fork would inherit threads and connections of the service
            self._pipe, theirs = context.Pipe()
            self._process = context.Process(target=_answer, args=(theirs,), name="inspector", daemon=True)
            self._process.start()
            theirs.close()
        return self._pipe

    def _end(self) -> None:
        if self._pipe is not None:
            self._pipe.close()
        if self._process is not None:
            self._process.kill()
            self._process.join()
        self._pipe = self._process = None


def _answer(pipe: Connection) -> None:
    """Answer until the service closes the pipe: None, the error of a model that is refused, or words about
    one that could not be inspected."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the service ends this process when it ends
    while True:
        try:
            asked = pipe.recv()
        except EOFError:
            return
        try:
            inspect(asked)
            pipe.send(None)
        except SecateurError as error:
            pipe.send(error)
        except Exception as error:
            log.exception("inspecting %s", asked.where)
            pipe.send(f"{type(error).__name__}: {error}")
