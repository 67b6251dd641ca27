"""`secateur serve` as a process of its own, to be used, killed and started again."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from api.client.client import SecateurClient, ServiceAwayError
from api.key_file import read_key
from tests.idle import IDLE_RAY
from tests.needs import needed
from tests.ports import free_port

START_SECONDS, STOP_SECONDS = 300, 120  # far beyond what a busy machine needs


@dataclass
class Service:
    """One service with its local Ray. `environment`: further settings, SECATEUR_ and others."""

    state_dir: Path
    environment: dict[str, str]
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self) -> SecateurClient:
        """A client with the key of the service's state directory."""
        return SecateurClient(self.url, api_key=read_key(self.state_dir))

    def start(self) -> None:
        """Serve, and return when the API answers."""
        needed("servers")
        log = (self.state_dir / "serve.log").open("ab")
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("SECATEUR_")},
            "SECATEUR_STATE_DIR": str(self.state_dir),
            "SECATEUR_PORT": str(self.port),
            "SECATEUR_INSPECT_MODELS": "off",
            **IDLE_RAY,
            **self.environment,
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "api.cli.main", "serve"],
            env=environment,
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        log.close()
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            assert self.process.poll() is None, (self.state_dir / "serve.log").read_text()[-4000:]
            try:
                with SecateurClient(self.url) as client:
                    client.ping()
                return
            except ServiceAwayError:
                time.sleep(0.2)
        raise AssertionError(f"the service did not answer in {START_SECONDS} s")

    def kill(self) -> None:
        """kill -9 the API alone; its Ray goes on."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """End it as an operator would."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(STOP_SECONDS)


def processes_of(state_dir: Path, wanted: Callable[[str], bool]) -> Iterator[int]:
    """Process ids of the Ray that a service with this state directory runs, by command line.

    Ray passes the environment on to all of its processes, so that none of another Ray is meant.
    """
    mark = storage_mark(state_dir)
    for process in psutil.process_iter(["cmdline", "environ"]):  # None for those of others
        environment, command = process.info["environ"] or {}, process.info["cmdline"] or ()
        if environment.get("SECATEUR_STORAGE_URL") == mark and wanted(" ".join(command)):
            yield process.pid


def kill_all(processes: Iterable[int]) -> None:
    """kill -9, and return when all of them are gone."""
    killed = list(processes)
    for process in killed:
        with contextlib.suppress(ProcessLookupError):  # it was faster
            os.kill(process, signal.SIGKILL)
    wait_until_gone(killed)


def wait_until_gone(processes: Iterable[int]) -> None:
    """Return when none of these runs any more."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            while psutil.Process(process).status() != psutil.STATUS_ZOMBIE:
                time.sleep(0.05)


def storage_mark(state_dir: Path) -> str:
    """The storage setting, which is the state directory's own in every test."""
    return (state_dir / "storage_url").read_text()
