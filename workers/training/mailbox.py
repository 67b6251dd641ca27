"""How the driver hears of training. Its process imports neither torch nor Ray Train."""

import asyncio
import contextlib

import ray

from workers.context import Step


@ray.remote(num_cpus=0)
class Mailbox:
    """What the workers tell, until the driver takes it."""

    def __init__(self) -> None:
        self._letters: asyncio.Queue[Step] = asyncio.Queue()

    async def put(self, letter: Step) -> None:
        """From a worker."""
        await self._letters.put(letter)

    async def take(self, timeout: float) -> list[Step]:
        """To the driver: everything that is there, as soon as there is something."""
        letters: list[Step] = []
        with contextlib.suppress(asyncio.TimeoutError):
            letters.append(await asyncio.wait_for(self._letters.get(), timeout))
        while not self._letters.empty():
            letters.append(self._letters.get_nowait())
        return letters
