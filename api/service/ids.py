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
    digits = (ALPHABET[number >> shift & 31] for shift in range(5 * (LENGTH - 1), -1, -5))
    return f"{kind}-{''.join(digits)}"


def submission_id(job: str, attempt: int) -> str:
    """The name of an attempt on Ray."""
    return f"{job}-{attempt}"
