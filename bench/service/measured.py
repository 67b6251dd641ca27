"""What bench/api.py measures, and how it is shown."""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import psutil

from bench.jobs import ROOT, parser_of
from bench.service.rows import LIVE, Filled, fill

STREAMS = 500
KEY = "sec_bench00000_" + "b" * 43
TARGETS = {  # milliseconds for PostgreSQL, then shares of a core, MB and seconds
    "p99_ms": 50,
    "p99_events_ms": 100,
    "streams_core": 0.2,
    "streams_mb": 300,
    "memory_mb": 400,
    "round_s": 0.5,
}


def main(description: str | None) -> None:
    """Print tables and one line of JSON."""
    arguments = parser_of(description, quick="50,000 jobs and 20 seconds").parse_args()
    jobs, seconds = (50_000, 20) if arguments.quick else (200_000, 60)
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="secateur-bench-") as name:
        directory = Path(name)
        model = _model(directory / "model")
        for database in ("postgresql", "sqlite"):
            with _database(database, directory) as url:
                figures[database] = _measured(url, directory / database, model, jobs=jobs, seconds=seconds)
            _show(database, figures[database])
    print(json.dumps({"jobs": jobs, "seconds": seconds, **figures}))


def _measured(url: str, state: Path, model: Path, *, jobs: int, seconds: int) -> dict[str, Any]:
    began = time.monotonic()
    filled = fill(url, model, jobs=jobs)
    print(f"{url.partition(':')[0]}: {jobs} jobs stored in {time.monotonic() - began:.0f} s", flush=True)
    with _ray(filled) as ray, _service(url, state, ray=ray, root=model) as (address, process):
        latencies = _load(address, filled, model, rate=50, seconds=seconds)
        memory = process.memory_info().rss / 1e6
        quiet, _ = _cost(address, filled, process, streams=0)
        busy, grown = _cost(address, filled, process, streams=STREAMS)
        rounds = _round_seconds(address)
    worst = {name: one["p99"] for name, one in latencies.items()}
    return {
        "requests": latencies,
        "p99_ms": max(value for name, value in worst.items() if name != "events of the large job"),
        "p99_events_ms": worst["events of the large job"],
        "memory_mb": round(memory),
        "streams_core": round(busy - quiet, 3),
        "streams_mb": round(grown),
        "round_s": rounds,
    }


def _load(
    address: str, filled: Filled, model: Path, *, rate: int, seconds: int
) -> dict[str, dict[str, float]]:
    """The latencies in milliseconds by kind of request, as a process of its own measures them."""
    asked = {"address": address, "key": KEY, "rate": rate, "seconds": seconds, "large": filled.large}
    command = [
        sys.executable,
        "-m",
        "bench.service.load",
        json.dumps({**asked, "model": str(model)}),
    ]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    found: dict[str, dict[str, float]] = json.loads(done.stdout.splitlines()[-1])
    return found


def _cost(address: str, filled: Filled, process: psutil.Process, *, streams: int) -> tuple[float, float]:
    """The share of a core that the service takes while drivers report and so many streams follow, and the MB
    by which it grows."""
    before = process.memory_info().rss
    asked = {"address": address, "key": KEY, "streams": streams, "live": filled.live, "token": filled.token}
    command = [sys.executable, "-m", "bench.service.streams", json.dumps(asked)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as followers:
        assert followers.stdout is not None
        assert followers.stdout.readline() == "begun\n"
        began, cpu = time.monotonic(), sum(process.cpu_times()[:2])
        assert followers.stdout.readline() == "over\n"
        share = (sum(process.cpu_times()[:2]) - cpu) / (time.monotonic() - began)
        grown = (process.memory_info().rss - before) / 1e6
    assert followers.returncode == 0
    return share, grown


def _round_seconds(address: str) -> float:
    """The mean time of the dispatcher's rounds."""
    text = httpx.get(f"{address}/metrics").text
    total, count = (
        float(line.rpartition(" ")[2])
        for name in ("sum", "count")
        for line in text.splitlines()
        if line.startswith(f"secateur_dispatcher_round_seconds_{name} ")
    )
    return round(total / count, 3)


@contextmanager
def _service(url: str, state: Path, *, ray: str, root: Path) -> Iterator[tuple[str, psutil.Process]]:
    from tests.ports import free_port

    port = free_port()
    environment = {
        "SECATEUR_DATABASE_URL": url,
        "SECATEUR_STATE_DIR": str(state),
        "SECATEUR_PORT": str(port),
        "SECATEUR_RAY_ADDRESS": ray,
        "SECATEUR_ADMIN_KEY": KEY,
        "SECATEUR_INSPECT_MODELS": "off",
        "SECATEUR_ALLOWED_ROOTS": json.dumps([str(root)]),
        "SECATEUR_MAX_RUNNING_JOBS": str(LIVE),
        "SECATEUR_LOG_LEVEL": "WARNING",
    }
    address = f"http://127.0.0.1:{port}"
    with subprocess.Popen([sys.executable, "-m", "api.app"], env=os.environ | environment, cwd=ROOT) as api:
        try:
            for _ in range(600):
                time.sleep(0.1)
                try:
                    if httpx.get(f"{address}/healthz").is_success:
                        break
                except httpx.TransportError:
                    assert api.poll() is None, "the service did not start"
            yield address, psutil.Process(api.pid)
        finally:
            api.terminate()


@contextmanager
def _ray(filled: Filled) -> Iterator[str]:
    """A stand-in for Ray's Jobs API, whose jobs run."""
    running = [
        {"submission_id": f"{job}-1", "status": "RUNNING", "message": "x" * 200} for job in filled.live
    ]

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            data = json.dumps(running if self.path == "/api/jobs/" else running[0]).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *said: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()


@contextmanager
def _database(kind: str, directory: Path) -> Iterator[str]:
    if kind == "sqlite":
        yield f"sqlite:///{directory}/secateur.db"
        return
    from tests.servers import postgres

    with postgres(directory / "postgres") as url:
        yield url


def _model(path: Path) -> Path:
    from tests.models import tiny_checkpoint

    tiny_checkpoint("llama", path)
    return path


def _show(database: str, figures: dict[str, Any]) -> None:
    print(f"\n{database}, milliseconds")
    print(f"{'request':34} {'count':>6} {'p50':>8} {'p99':>8} {'worst':>8}")
    for name, one in figures["requests"].items():
        print(f"{name:34} {one['count']:6.0f} {one['p50']:8.1f} {one['p99']:8.1f} {one['worst']:8.1f}")
    for name, target in TARGETS.items():
        where = "" if database == "postgresql" else " on PostgreSQL"
        print(f"{name:34} {figures[name]:>8} (target {target}{where})")
    print(flush=True)
