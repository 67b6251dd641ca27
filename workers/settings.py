"""The settings of a worker process, read from its environment.

Drivers get the non-secret part from the API through the Ray job's runtime environment; keys come from the
cluster's own environment (a Kubernetes secret, say).
"""

from pydantic import Field, field_validator

from pipeline.serving.available import TargetSettings
from pipeline.sources.access import SourceAccess
from pipeline.storage.content import ContentStore
from pipeline.storage.settings import FromEnvironment, StorageSettings


class WorkerSettings(StorageSettings, SourceAccess, TargetSettings, FromEnvironment, extra="ignore"):
    """The settings of storage, sources and targets, as in the API, and those of workers only."""

    report_deadline_seconds: float = Field(
        default=900, description="How long a driver keeps trying to deliver."
    )

    def content(self) -> ContentStore:
        """Opens the storage, with the node's cache in front of a remote one."""
        return self.cached_content()

    @field_validator("storage_url")
    @classmethod
    def _given(cls, value: str) -> str:
        if not value:
            raise ValueError("workers have no storage of their own; set SECATEUR_STORAGE_URL as for the API")
        return value
