"""One request at a time, a few that wait, and a refusal for all others."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Busy(Exception):
    """So many requests are waiting that another one is refused."""


class Turns:
    """Lets one request in at a time. `waiting`: how many others may wait for their turn."""

    def __init__(self, *, waiting: int) -> None:
        self.waiting = waiting
        self._inside = 0
        self._turn = asyncio.Lock()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a turn, and have it for the length of the block. Raises Busy."""
        if self._inside > self.waiting:
            raise Busy(
                f"one request is being answered and {self.waiting} are waiting, which is the most; try again "
                f"later"
            )
        self._inside += 1
        try:
            async with self._turn:
                yield
        finally:
            self._inside -= 1
