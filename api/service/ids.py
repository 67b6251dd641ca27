"""Ids are `job-` or another kind, and 20 characters that grow with time, so that ids sort by age."""

import secrets
import time

ALPHABET = "0123456789abcdefghijklmnopqrstuv"  # base32 in an order that sorts
LENGTH = 20
RANDOM_BITS = 5 * LENGTH - 48
JOB_ID_PATTERN = rf"^job-[0-9a-v]{{{LENGTH}}}$"
KEY_ID_PATTERN = rf"^key-[0-9a-v]{{{LENGTH}}}$"


def new_job_id() -> str:
    """Returns a new id of a job."""
    return new_id("job")


def new_id(kind: str) -> str:
    """Returns a new id from 48 bits of milliseconds and 52 random bits."""
    number = (time.time_ns() // 1_000_000) << RANDOM_BITS | secrets.randbits(RANDOM_BITS)
    return f"{kind}-{_written(number)}"


def first_id(kind: str, seconds: int) -> str:
    """Returns the smallest id that may be made at a moment, given in Unix seconds."""
    number = max(0, seconds * 1000) << RANDOM_BITS
    return f"{kind}-{_written(number)}"


def submission_id(job: str, attempt: int) -> str:
    """The name of an attempt on Ray."""
    return f"{job}-{attempt}"


def _written(number: int) -> str:
    return "".join(ALPHABET[number >> shift & 31] for shift in range(5 * (LENGTH - 1), -1, -5))
