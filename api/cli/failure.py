"""The class of a failure in words: whose it is."""

from collections.abc import Mapping

from pipeline.errors import Blame

WHOSE: Mapping[Blame, str] = {
    "user": "the user's: the request, its sources or the installation must change",
    "machine": "the machine's: trying again may help",
    "bug": "a bug of Secateur: trying again does not help",
}
_BEGINNINGS: Mapping[Blame, str] = {
    "user": "",
    "machine": "the machine failed: ",
    "bug": "a bug of Secateur: ",
}


def blamed(message: str, blame: Blame | None) -> str:
    """The sentence of a failure, which begins with its class unless the failure is the user's."""
    return message if blame is None else f"{_BEGINNINGS[blame]}{message}"


def whose(blame: Blame | None) -> str:
    """The class of a failure; nothing for failures of older versions, which have none."""
    return "" if blame is None else WHOSE[blame]
