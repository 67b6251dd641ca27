"""The secrets that callers present: attempt tokens of drivers, and API keys of people and programs.

Both hold 256 random bits, and only their SHA-256 is stored. Nobody guesses so many bits, so salt and a slow
hash, which protect passwords, would add nothing.
"""

import hmac
import re
import secrets
from dataclasses import dataclass
from typing import Literal, get_args

from pipeline.canonical import sha256_hex

Role = Literal["viewer", "submitter", "admin"]
ROLES: tuple[Role, ...] = get_args(Role)  # each role includes the rights of those before it

PREFIX_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"
PREFIX_LENGTH = 10
MIN_KEY_LENGTH = 32
KEY_MISSING = "an API key is needed: send Authorization: Bearer <key>"
SENDABLE = re.compile(rf"[A-Za-z0-9._~+/=-]{{{MIN_KEY_LENGTH},200}}")  # after Bearer in a header
OUR_KEY = re.compile(r"(sec_[0-9a-z]{8,12})_[A-Za-z0-9_-]{32,}")


@dataclass(frozen=True)
class Caller:
    """The caller of a request. `prefix` is the part of the key that lists show; None if no key is needed."""

    name: str
    role: Role
    prefix: str | None = None


def new_token() -> str:
    """Returns a random token of 256 bits."""
    return secrets.token_urlsafe(32)


def new_key() -> str:
    """Returns a random key, `sec_<prefix>_<secret>`."""
    prefix = "".join(secrets.choice(PREFIX_ALPHABET) for _ in range(PREFIX_LENGTH))
    return f"sec_{prefix}_{new_token()}"


def key_prefix(key: str) -> str | None:
    """The prefix by which a key is looked up and listed, `sec_<prefix>`; None for text that cannot be a key.

    A key that the service did not make (SECATEUR_ADMIN_KEY) has no prefix, so a part of its digest is used.
    """
    if not SENDABLE.fullmatch(key):
        return None
    ours = OUR_KEY.fullmatch(key)
    return ours[1] if ours else f"own_{token_digest(key)[:PREFIX_LENGTH]}"


def token_digest(token: str) -> str:
    """The SHA-256 of a token or key, which is stored in its place."""
    return sha256_hex(token.encode("utf-8", "surrogateescape"))


def token_matches(token: str, digest: str) -> bool:
    """Tells whether a token or key has this digest, in constant time."""
    return hmac.compare_digest(token_digest(token), digest)


def may(role: Role, needed: Role) -> bool:
    """Tells whether a role includes the rights of the needed one."""
    return ROLES.index(role) >= ROLES.index(needed)
