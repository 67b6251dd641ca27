"""The location of a deployment's storage, and the reading of settings. The API and the workers inherit
both."""

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from pipeline.storage import ContentStore, open_store
from pipeline.storage.options import S3Settings

PREFIX = "SECATEUR_"


class FromEnvironment(BaseSettings):
    """Reads settings from the environment, for both processes: SECATEUR_S3_REGION is the field `region` of
    `s3`.

    Values stay texts, which the fields' own validators parse. Nothing is read before an object is created.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="_",
        env_nested_max_split=1,
        env_ignore_empty=True,
        enable_decoding=False,
        hide_input_in_errors=True,
    )


class StorageSettings(S3Settings):
    """A plain model: it reads no environment by itself."""

    storage_url: str = Field(
        default="",
        description="`file:///absolute/path` or "
        "`s3://bucket/prefix`. Left out: `storage` in the state directory.",
    )

    def content(self) -> ContentStore:
        """Opens the storage."""
        return ContentStore(open_store(self.storage_url, self.s3))
