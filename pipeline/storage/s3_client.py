"""The connection to an S3 server: clients, the meaning of their errors, and the bodies of answers.

The only file that imports boto3.
"""

import contextlib
import threading
from collections.abc import Generator, Iterator
from functools import cache
from http.client import IncompleteRead

from boto3.session import Session
from botocore.client import BaseClient
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    HTTPClientError,
    IncompleteReadError,
    ResponseStreamingError,
)
from botocore.exceptions import ConnectionError as EndpointError
from botocore.parsers import ResponseParserError
from botocore.response import StreamingBody
from urllib3.exceptions import HTTPError

from pipeline.errors import StorageError, StorageUnavailable
from pipeline.storage.options import S3Options
from pipeline.storage.resume import BrokenBody
from pipeline.storage.s3_answers import meaning

__all__ = ["BaseClient", "ClientError", "chunks", "code_of", "connect", "translated"]

READ_BYTES = 1024 * 1024  # the most that a broken connection has to read again
MAX_CONNECTIONS = 32  # of one client: those that read, and those that send the parts of several objects
CONNECTING = threading.Lock()  # clients may be shared between threads, but not created in parallel


def connect(options: S3Options, *, connect_seconds: float, read_seconds: float, attempts: int) -> BaseClient:
    """Returns a client without contacting the server."""
    access_key, secret_key = options.keys or (None, None)
    with CONNECTING:
        return _session().client(
            "s3",
            endpoint_url=options.endpoint_url,
            region_name=options.region,
            aws_access_key_id=access_key,
            aws_secret_access_key=secret_key,
            config=Config(
                signature_version="s3v4",
                s3={"addressing_style": "path" if options.endpoint_url else "auto"},
                retries={"mode": "standard", "total_max_attempts": attempts},
                connect_timeout=connect_seconds,
                read_timeout=read_seconds,
                tcp_keepalive=True,
                max_pool_connections=MAX_CONNECTIONS,
                # Our SHA-256 travels in a header: trailing checksums confuse some servers. Digests are
                # verified in content.py: botocore's check crashes on a 5xx that carries a checksum.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )


@contextlib.contextmanager
def translated(named: str) -> Iterator[None]:
    """Turns botocore's errors into StorageErrors. `named`: the operation, bucket and endpoint; never a
    secret."""
    try:
        yield
    except ClientError as error:
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        kind, reason = meaning(code_of(error), status)
        message = error.response.get("Error", {}).get("Message", "")[:300]
        answer = f"HTTP {status}, {code_of(error)}, {message}"
        raise kind(f"{named}: {reason} (answer: {answer})") from error
    except (EndpointError, HTTPClientError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise StorageUnavailable(f"{named}: no answer ({reason})") from error
    except (ResponseParserError, RecursionError) as error:  # botocore follows redirects to itself
        raise StorageError(f"{named}: the answer is not S3's; check endpoint_url") from error
    except (BotoCoreError, ValueError) as error:
        raise StorageError(f"{named}: {error}") from error


def code_of(error: ClientError) -> str:
    """Returns S3's code for an error, such as NoSuchKey."""
    return str(error.response.get("Error", {}).get("Code", ""))


def chunks(body: StreamingBody) -> Generator[bytes, None, None]:
    """Yields the bytes of one answer, up to the empty read that makes botocore compare the length."""
    with contextlib.closing(body):
        try:
            while chunk := body.read(READ_BYTES):
                yield chunk
        except (BotoCoreError, HTTPError, OSError) as error:
            raise BrokenBody(f"{type(error).__name__}: {error}", short=_is_short(error)) from error


@cache
def _session() -> Session:
    """Returns one session for all clients: a new one reads descriptions of S3 for a quarter of a second."""
    return Session()


def _is_short(error: Exception) -> bool:
    """Tells whether a body was closed properly before its length was reached."""
    if isinstance(error, IncompleteReadError):
        return True
    inner = error.kwargs.get("error") if isinstance(error, ResponseStreamingError) else error
    return isinstance(getattr(inner, "__cause__", None), IncompleteRead)
