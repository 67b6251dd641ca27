"""Attempt tokens: random, good for one attempt, stored only as their SHA-256."""

import hmac
import secrets

from pipeline.canonical import sha256_hex


def new_token() -> str:
    """A token that nobody guesses."""
    return secrets.token_urlsafe(32)


def token_digest(token: str) -> str:
    """What is stored of a token."""
    return sha256_hex(token.encode("utf-8", "surrogateescape"))


def token_matches(token: str, digest: str) -> bool:
    """Whether a token is the one with that digest, in constant time."""
    return hmac.compare_digest(token_digest(token), digest)
