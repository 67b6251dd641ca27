"""The end of a command that cannot do its work: one line, and no traceback."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from workers.classified import classified


@contextmanager
def refusing() -> Iterator[None]:
    """Write the reason of any error in the block as the last line of standard error, and exit with 1. A bug
    is named as one, with its place."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - none is dropped: the line says which it is
        known = classified(error)
        line = (
            f"a bug of Secateur: {' '.join(known.message.split())}" if known.blame == "bug" else known.message
        )
        sys.stderr.write(f"{line}\n")
        sys.exit(1)
