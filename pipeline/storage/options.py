"""How to reach S3. Its own file, so that options can be made without loading boto3."""

from dataclasses import dataclass, field
from typing import Literal

Encryption = Literal["AES256", "aws:kms"]


@dataclass(frozen=True)
class S3Options:
    """Where the S3 server is and who we are.

    Without keys, boto3's own chain finds credentials (environment, profile, instance role). An
    `endpoint_url` means a server other than AWS and switches to path-style addresses. `checksums=False`
    leaves out SHA-256 upload checksums, for servers that refuse them.
    """

    endpoint_url: str | None = None
    region: str | None = None
    access_key: str | None = None
    secret_key: str | None = field(default=None, repr=False)
    sse: Encryption | None = None
    kms_key_id: str | None = None
    checksums: bool = True

    def __post_init__(self) -> None:
        if (self.access_key is None) != (self.secret_key is None):
            raise ValueError("S3 options need access_key and secret_key together, or neither")
        if self.kms_key_id is not None and self.sse != "aws:kms":
            raise ValueError(f"kms_key_id needs sse='aws:kms', got sse={self.sse!r}")
        if self.sse not in (None, "AES256", "aws:kms"):
            raise ValueError(f"sse must be 'AES256', 'aws:kms' or None, got {self.sse!r}")
        if self.endpoint_url is not None and "@" in self.endpoint_url:
            raise ValueError("endpoint_url must not hold credentials; use access_key and secret_key")
