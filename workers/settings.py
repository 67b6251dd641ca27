"""What a worker process is told by its environment: the only reader of it on this side.

Drivers get the non-secret part from the API through the Ray job's runtime environment; keys come from the
cluster's own environment (a Kubernetes secret, say).
"""

import json
import os
from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from pipeline.sources.access import SourceAccess
from pipeline.storage import ContentStore, S3Options, open_store
from pipeline.storage.options import Encryption


class WorkerSettings(BaseSettings):
    """Same names and meanings as the API's settings of the same names (docs/settings.md)."""

    model_config = SettingsConfigDict(
        env_prefix="SECATEUR_", extra="ignore", env_ignore_empty=True, frozen=True
    )

    storage_url: str
    s3_endpoint_url: str | None = None
    s3_region: str | None = None
    s3_access_key: SecretStr | None = None
    s3_secret_key: SecretStr | None = None
    s3_sse: Encryption | None = None
    s3_kms_key_id: str | None = None
    s3_checksums: bool = True
    allowed_roots: Annotated[tuple[Path, ...], NoDecode] = ()
    hub_endpoint: str | None = None
    hub_token: SecretStr | None = None
    hub_cache_dir: Path | None = None
    hub_offline: bool = False
    report_deadline_seconds: float = Field(
        default=900, description="How long a driver keeps trying to deliver."
    )

    @field_validator("allowed_roots", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        if value.startswith("["):  # as the API writes it for drivers
            return json.loads(value)
        return [part for part in value.split(os.pathsep) if part]

    def s3(self) -> S3Options:
        """How to reach S3."""
        return S3Options(
            endpoint_url=self.s3_endpoint_url,
            region=self.s3_region,
            access_key=_revealed(self.s3_access_key),
            secret_key=_revealed(self.s3_secret_key),
            sse=self.s3_sse,
            kms_key_id=self.s3_kms_key_id,
            checksums=self.s3_checksums,
        )

    def content(self) -> ContentStore:
        """The storage, opened."""
        return ContentStore(open_store(self.storage_url, self.s3()))

    def access(self) -> SourceAccess:
        """Which sources may be read, and how."""
        return SourceAccess(
            allowed_roots=self.allowed_roots,
            s3=self.s3(),
            hub_endpoint=self.hub_endpoint,
            hub_token=_revealed(self.hub_token),
            hub_cache_dir=self.hub_cache_dir,
            hub_offline=self.hub_offline,
        )


def _revealed(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret else None
