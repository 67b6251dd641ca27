"""What a worker process is told by its environment: the only reader of it on this side.

Drivers get the non-secret part from the API through the Ray job's runtime environment; keys come from the
cluster's own environment (a Kubernetes secret, say).
"""

from pydantic import Field, field_validator

from pipeline.sources.access import SourceAccess
from pipeline.storage.settings import FromEnvironment, StorageSettings


class WorkerSettings(StorageSettings, SourceAccess, FromEnvironment, extra="ignore"):
    """Storage and sources as the API has them, and what only workers need."""

    report_deadline_seconds: float = Field(
        default=900, description="How long a driver keeps trying to deliver."
    )

    @field_validator("storage_url")
    @classmethod
    def _given(cls, value: str) -> str:
        if not value:
            raise ValueError("workers have no storage of their own; set SECATEUR_STORAGE_URL as for the API")
        return value
