"""Names of people's files and folders as parts of storage keys."""

import re

from pipeline.canonical import sha256_hex

LONGEST = 200  # characters; keys put a few more behind a name
FINE = re.compile(rf"[A-Za-z0-9._-]{{1,{LONGEST}}}")
DIGEST = 8  # hexadecimal digits


def slug(name: str) -> str:
    """Returns a name of ASCII letters, digits, `.`, `_` and `-` for any name. One that has only these is
    returned as it is; another loses the rest and gets a short digest of all of it, so that no two names give
    the same."""
    if FINE.fullmatch(name) and name.strip("."):
        return name
    words = re.sub(r"[^A-Za-z0-9._]+", "-", name).strip("-.")[:LONGEST]
    return f"{words or 'name'}-{sha256_hex(name.encode(errors='backslashreplace'))[:DIGEST]}"
