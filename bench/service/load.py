"""Sends requests to a service at fixed times, and prints their latencies as JSON. bench/api.py starts it.

A request is sent when its time has come, whether the one before was answered or not, and its latency counts
from that time, so that a service that stands still is not spared the requests that it would have got.
"""

import asyncio
import json
import math
import random
import sys
import time
from pathlib import Path

import httpx

from bench.service.rows import LARGE_EVENTS, request_of

KINDS = {  # name → path with parameters
    "list": "/jobs",
    "list, status=failed": "/jobs?status=failed",
    "list, status=running": "/jobs?status=running",
    "list, common label": "/jobs?label=team:team-1",
    "list, rare label": "/jobs?label=team:rare",
    "list, common model": "/jobs?model=llama",
    "list, rare model": "/jobs?model=rare",
    "list, model that none has": "/jobs?model=nobody",
    "list, created before": "/jobs?created_before={middle}",
    "list, failed, rare label": "/jobs?status=failed&label=team:rare",
    "one job": "/jobs/{large}",
}
EVENTS = "events of the large job"
SUBMIT = "submit"
SHARE = 4  # every so manieth request is a submission, and the one after it asks for events


async def main(asked: dict[str, object]) -> None:
    """Send, and print."""
    rate, seconds = int(str(asked["rate"])), int(str(asked["seconds"]))
    body = request_of(Path(str(asked["model"])))
    middle = int(time.time()) - 40 * 24 * 3600
    paths = {name: path.format(middle=middle, large=asked["large"]) for name, path in KINDS.items()}
    names, random_events = list(paths), random.Random(0)
    latencies: dict[str, list[float]] = {}
    headers = {"Authorization": f"Bearer {asked['key']}"}
    limits = httpx.Limits(max_connections=200, max_keepalive_connections=200)
    async with httpx.AsyncClient(
        base_url=str(asked["address"]), headers=headers, timeout=60, limits=limits, trust_env=False
    ) as client:

        async def send(number: int, at: float) -> None:
            if number % SHARE == 0:
                name = SUBMIT
                answer = await client.post("/jobs", json=body)
            elif number % SHARE == 1:
                name, after = EVENTS, random_events.randrange(LARGE_EVENTS)
                answer = await client.get(f"/jobs/{asked['large']}/events?after={after}&limit=100")
            else:
                name = names[number % len(names)]
                answer = await client.get(paths[name])
            answer.raise_for_status()
            latencies.setdefault(name, []).append((time.monotonic() - at) * 1000)

        await client.get("/jobs")  # the connection and the first use of everything
        began, sent = time.monotonic(), []
        for number in range(rate * seconds):
            at = began + number / rate
            await asyncio.sleep(max(0.0, at - time.monotonic()))
            sent.append(asyncio.create_task(send(number, at)))
        await asyncio.gather(*sent)
    print(json.dumps({name: _figures(one) for name, one in sorted(latencies.items())}))


def _figures(milliseconds: list[float]) -> dict[str, float]:
    ordered = sorted(milliseconds)

    def at(share: float) -> float:
        return round(ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)], 1)

    return {"count": len(ordered), "p50": at(0.5), "p99": at(0.99), "worst": round(ordered[-1], 1)}


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
