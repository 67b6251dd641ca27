"""The mailbox through which training reports to the driver. Its process imports neither torch nor Ray
Train."""

import asyncio
import contextlib

import ray

from workers.context import Step


@ray.remote(num_cpus=0)
class Mailbox:
    """Holds the steps that the workers report until the driver takes them."""

    def __init__(self) -> None:
        self._letters: asyncio.Queue[Step] = asyncio.Queue()

    async def put(self, letter: Step) -> None:
        """Add a step. A worker calls it."""
        await self._letters.put(letter)

    async def take(self, timeout: float) -> list[Step]:
        """Everything in the mailbox, as soon as there is something; empty after `timeout` seconds. The driver
        calls it."""
        letters: list[Step] = []
        with contextlib.suppress(asyncio.TimeoutError):
            letters.append(await asyncio.wait_for(self._letters.get(), timeout))
        while not self._letters.empty():
            letters.append(self._letters.get_nowait())
        return letters
