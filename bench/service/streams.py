"""Follows jobs by many streams while their drivers report, for 20 seconds. bench/api.py starts it.

It prints `begun` when all streams are open, and `over` at the end. Each stream must have heard what its job's
driver said.
"""

import asyncio
import json
import sys
from datetime import UTC, datetime
from typing import Any

import httpx

SECONDS, RATE = 20, 20  # of events from all drivers together


async def main(asked: dict[str, Any]) -> None:
    """Follow, report, and check."""
    streams, live = asked["streams"], asked["live"]
    heard = [0] * streams
    opened = asyncio.Semaphore(0)
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(
        base_url=asked["address"], timeout=120, limits=limits, trust_env=False
    ) as client:

        async def follow(number: int) -> None:
            job = live[number % len(live)]
            headers = {"Authorization": f"Bearer {asked['key']}"}
            async with client.stream("GET", f"/jobs/{job}/events?follow=true", headers=headers) as answer:
                answer.raise_for_status()
                opened.release()
                async for line in answer.aiter_lines():
                    heard[number] += line.startswith("event: message")

        tasks = [asyncio.create_task(follow(number)) for number in range(streams)]
        for _ in tasks:
            await opened.acquire()
        await asyncio.sleep(2)
        print("begun", flush=True)
        said = await report(client, asked)
        await asyncio.sleep(2)
        print("over", flush=True)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for number, count in enumerate(heard):
        wanted = said[live[number % len(live)]]
        assert count >= wanted, f"stream {number} heard {count} of {wanted} events"


async def report(client: httpx.AsyncClient, asked: dict[str, Any]) -> dict[str, int]:
    """Say something for one job after the other, and return how often for each."""
    live, said = asked["live"], dict.fromkeys(asked["live"], 0)
    first = (await sequence(client, asked)) + 1
    for number in range(SECONDS * RATE):
        job = live[number % len(live)]
        body = {"type": "message", "text": "said"}
        event = {"sequence": first + said[job], "at": datetime.now(UTC).isoformat(), "body": body}
        answer = await client.post(
            f"/internal/attempts/{job}/1/events",
            json={"events": [event]},
            headers={"Authorization": f"Bearer {asked['token']}"},
        )
        answer.raise_for_status()
        said[job] += 1
        await asyncio.sleep(1 / RATE)
    return said


async def sequence(client: httpx.AsyncClient, asked: dict[str, Any]) -> int:
    """The number of events that each driver has sent: as many as every other."""
    answer = await client.post(
        f"/internal/attempts/{asked['live'][0]}/1/events",
        json={"events": []},
        headers={"Authorization": f"Bearer {asked['token']}"},
    )
    answer.raise_for_status()
    accepted: int = answer.json()["accepted_through"]
    return accepted


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
