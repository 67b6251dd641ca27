"""A local Ray of the service's own: started when there is none, and found again after the API was killed.

`<state>/ray.json` records its process. Only that process is ever ended.
"""

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx
import psutil

from api.submit import RayEndpoint, RayUnavailable
from pipeline.canonical import Frozen

log = logging.getLogger(__name__)
HOST = "127.0.0.1"
START_SECONDS = 120.0
STOP_SECONDS = 10.0
MAX_TEMP_DIR = 40  # Ray's sockets have paths 65 characters longer, and a socket's path may have 107


class RayProcess(Frozen):
    """The process of the local Ray. `started` is its start time, because pids are used again."""

    pid: int
    started: str
    address: str
    temp_dir: str


class EmbeddedRay:
    """Starts, finds and ends the local Ray. Its workers inherit `environment` too."""

    def __init__(
        self, state_dir: Path, *, environment: Mapping[str, str] | None = None, num_cpus: int | None = None
    ) -> None:
        self.state_dir = state_dir
        self.token_path = state_dir / "ray-token"
        self._record = state_dir / "ray.json"
        self._environment = dict(environment or {})
        self._num_cpus = num_cpus or os.cpu_count() or 1
        self._lock = threading.Lock()
        self._given_up = threading.Event()
        self._process: RayProcess | None = None
        self._child: subprocess.Popen[bytes] | None = None

    def endpoint(self) -> RayEndpoint:
        """The address and the token of the local Ray. Raises RayUnavailable while it does not run."""
        process = self._process
        if process is None:
            raise RayUnavailable("the local Ray is not running yet")
        return RayEndpoint(process.address, self._token())

    def ensure(self) -> None:
        """Find the recorded Ray, or start a new one. Raises RayUnavailable when that fails."""
        with self._lock, self._alone():
            if self._process is not None and _same_process(self._process):
                return
            process = self._recorded()
            if process is not None and self._lives(process):
                log.info("the local Ray still runs; its dashboard is at %s", process.address)
                self._process = process
                return
            self._process = None
            if process is not None:
                self._end(process)
            self._process = self._start()

    def give_up(self) -> None:
        """Stop waiting for a Ray that is starting."""
        self._given_up.set()

    def stop(self) -> None:
        """End the local Ray, and wait until it has ended."""
        with self._lock:
            process, self._process = self._process, None
            if process is not None:
                self._end(process)
                self._record.unlink(missing_ok=True)

    def _start(self) -> RayProcess:
        token = self._token()
        temp_dir = _fresh_temp_dir(self.state_dir)
        gcs, dashboard, client, agent_http, agent_grpc, metrics = _free_ports(6)
        command = [
            str(Path(sys.executable).parent / "ray"),
            *("start", "--head", "--block", "--disable-usage-stats", "--log-color", "false"),
            *("--node-ip-address", HOST, "--port", str(gcs), "--temp-dir", str(temp_dir)),
            *("--include-dashboard", "true", "--dashboard-host", HOST, "--dashboard-port", str(dashboard)),
            *("--dashboard-agent-listen-port", str(agent_http)),
            *("--dashboard-agent-grpc-port", str(agent_grpc)),
            *("--ray-client-server-port", str(client), "--metrics-export-port", str(metrics)),
            *("--num-cpus", str(self._num_cpus)),
            *("--labels", "secateur/cluster=fixed"),  # no node joins: what is too large is refused at once
        ]
        environment = os.environ | {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.token_path),
            "RAY_USAGE_STATS_ENABLED": "0",
            "OMP_WAIT_POLICY": "PASSIVE",
            "GOMP_SPINCOUNT": "10000",
            "PYTHONPATH": _python_path(),
            "PYTHONUNBUFFERED": "1",
            **self._environment,
        }
        for name in ("RAY_ADDRESS", "SECATEUR_ADMIN_KEY", "SECATEUR_API_KEY"):
            environment.pop(name, None)
        log.info("starting a local Ray")
        with (self.state_dir / "ray.log").open("ab") as output:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.state_dir,
                env=environment,
                start_new_session=True,  # Ctrl-C must end the API and not Ray
            )
        self._child = child
        process = RayProcess(
            pid=child.pid,
            started=start_time(child.pid),
            address=f"http://{HOST}:{dashboard}",
            temp_dir=str(temp_dir),
        )
        self._remember(process)
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and child.poll() is None and not self._given_up.is_set():
            if _answers(process.address, token):
                log.info("the local Ray runs; its dashboard is at %s", process.address)
                return process
            time.sleep(0.3)
        self._end(process)
        raise RayUnavailable(f"the local Ray did not start; its log is {self.state_dir / 'ray.log'}")

    def _lives(self, process: RayProcess) -> bool:
        """Tells whether the recorded process runs, and is ours because it accepts our token."""
        return _same_process(process) and _answers(process.address, self._token(), tries=3)

    def _end(self, process: RayProcess) -> None:
        """End the process. Ray's head ends its own children on SIGTERM."""
        for stop_signal in (signal.SIGTERM, signal.SIGKILL):
            if not _same_process(process):
                self._wait(process)
                break
            log.info("ending the local Ray, process %d", process.pid)
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, stop_signal)
            self._wait(process)
        shutil.rmtree(process.temp_dir, ignore_errors=True)

    def _wait(self, process: RayProcess) -> None:
        deadline = time.monotonic() + STOP_SECONDS
        while time.monotonic() < deadline and _same_process(process):
            time.sleep(0.1)
        child = self._child
        if child is not None and child.pid == process.pid and not _same_process(process):
            child.wait()  # it is a zombie: its parent must read its exit code
            self._child = None

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold a lock, so that no other process with this state directory starts a Ray meanwhile."""
        self.state_dir.mkdir(parents=True, exist_ok=True)
        with (self.state_dir / "ray.lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _token(self) -> str:
        """The token of the local Ray. It is made at the first use, and only this user may read it."""
        with contextlib.suppress(FileExistsError):
            self.state_dir.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.token_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_hex(32))
        return self.token_path.read_text().strip()

    def _remember(self, process: RayProcess) -> None:
        aside = self._record.with_suffix(".tmp")
        aside.write_text(process.model_dump_json())
        aside.replace(self._record)

    def _recorded(self) -> RayProcess | None:
        try:
            return RayProcess.model_validate(json.loads(self._record.read_text()))
        except (FileNotFoundError, ValueError):
            return None


def _answers(address: str, token: str, *, tries: int = 1) -> bool:
    """Tells whether Ray at this address is ready to take jobs with this token."""
    headers = {"Authorization": f"Bearer {token}"}
    for left in range(tries - 1, -1, -1):
        with contextlib.suppress(httpx.HTTPError):
            answer = httpx.get(f"{address}/api/jobs/", headers=headers, timeout=5, trust_env=False)
            if answer.is_success:
                return True
        if left:
            time.sleep(1)
    return False


def _same_process(process: RayProcess) -> bool:
    """Tells whether the recorded process, and no later one with its pid, still runs."""
    started = start_time(process.pid)
    return started != "" and started == process.started


def start_time(pid: int) -> str:
    """The start time of a process, in clock ticks since the machine booted; empty when it has ended.

    The wall clock would not do: after somebody sets it, a process would seem to be another one.
    """
    try:
        process = psutil.Process(pid)
        if process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
            return ""
        seconds = process.create_time() - psutil.boot_time()
    except psutil.NoSuchProcess:
        return ""
    return str(round(seconds * os.sysconf("SC_CLK_TCK")))


def _fresh_temp_dir(state_dir: Path) -> Path:
    """Makes a temporary directory with a short path that only this user may open."""
    parent = Path(tempfile.gettempdir())
    if len(str(parent)) > MAX_TEMP_DIR - 20:
        parent = Path("/tmp")
    mark = hashlib.sha256(str(state_dir).encode()).hexdigest()[:6]
    return Path(tempfile.mkdtemp(prefix=f"scr-{mark}-", dir=parent))


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for candidate in sockets:
            candidate.bind((HOST, 0))
        return [int(candidate.getsockname()[1]) for candidate in sockets]


def _python_path() -> str:
    """A PYTHONPATH that begins with this code's directory, so that workers import the same code."""
    here = str(Path(__file__).resolve().parent.parent)
    return os.pathsep.join(part for part in (here, os.environ.get("PYTHONPATH", "")) if part)
