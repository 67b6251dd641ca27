"""The secrets that callers present: attempt tokens of drivers, and API keys of people and programs.

Both hold 256 random bits and are stored as their SHA-256 alone. Nobody guesses so many bits, so that neither
salt nor a slow hash, which protect passwords, would add anything.
"""

import hmac
import re
import secrets
from dataclasses import dataclass
from typing import Literal, get_args

from pipeline.canonical import sha256_hex

Role = Literal["viewer", "submitter", "admin"]
ROLES: tuple[Role, ...] = get_args(Role)  # each may do what those before it may

PREFIX_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"
PREFIX_LENGTH = 10
MIN_KEY_LENGTH = 32
SENDABLE = re.compile(rf"[A-Za-z0-9._~+/=-]{{{MIN_KEY_LENGTH},200}}")  # what a header takes after Bearer
OUR_KEY = re.compile(r"(sec_[0-9a-z]{8,12})_[A-Za-z0-9_-]{32,}")


@dataclass(frozen=True)
class Caller:
    """Who asks. `prefix`: the part of the key that lists show; none where no keys are asked for."""

    name: str
    role: Role
    prefix: str | None = None


def new_token() -> str:
    """A token that nobody guesses."""
    return secrets.token_urlsafe(32)


def new_key() -> str:
    """A key, `sec_<prefix>_<secret>`."""
    prefix = "".join(secrets.choice(PREFIX_ALPHABET) for _ in range(PREFIX_LENGTH))
    return f"sec_{prefix}_{new_token()}"


def key_prefix(key: str) -> str | None:
    """What a key is looked up by and shown as, `sec_<prefix>`; None for what cannot be a key.

    A key that somebody else made (SECATEUR_ADMIN_KEY) has none of its own: a part of its digest serves.
    """
    if not SENDABLE.fullmatch(key):
        return None
    ours = OUR_KEY.fullmatch(key)
    return ours[1] if ours else f"own_{token_digest(key)[:PREFIX_LENGTH]}"


def token_digest(token: str) -> str:
    """What is stored of a token or key."""
    return sha256_hex(token.encode("utf-8", "surrogateescape"))


def token_matches(token: str, digest: str) -> bool:
    """Whether a token or key is the one with that digest, in constant time."""
    return hmac.compare_digest(token_digest(token), digest)


def may(role: Role, needed: Role) -> bool:
    """Whether a role is as great as the one that is needed."""
    return ROLES.index(role) >= ROLES.index(needed)
