"""The location of a deployment's storage, and the reading of settings. The API and the workers inherit
both."""

import os
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from pipeline.storage import ContentStore, open_store
from pipeline.storage.cache import NodeCache
from pipeline.storage.options import S3Settings

PREFIX = "SECATEUR_"
CONNECTIONS = 8  # of one worker to a remote store, for reading


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

    cache_dir: str = Field(
        default="",
        description="Directory on the own disk of each node that runs workers, for verified bytes that were "
        "read from S3. Left out: `secateur-cache-<user id>` where temporary files lie.",
    )
    cache_bytes: int = Field(
        default=20 * 2**30, ge=0, description="Most bytes in that directory; 0 turns the cache off."
    )
    snapshot_seconds: float = Field(
        default=60,
        ge=0,
        description="Seconds from one snapshot of a walk's activations to the next. A restart repeats the "
        "forward passes since the last one. 0 takes one after every block.",
    )

    def content(self) -> ContentStore:
        """Opens the storage."""
        return ContentStore(open_store(self.storage_url, self.s3))

    def cached_content(self) -> ContentStore:
        """Opens the storage as workers do: a remote one is read over several connections, and what was read
        stays in the node's cache."""
        store = open_store(self.storage_url, self.s3)
        if urlsplit(self.storage_url).scheme == "file":
            return ContentStore(store)
        directory = Path(self.cache_dir or Path(tempfile.gettempdir()) / f"secateur-cache-{os.getuid()}")
        cache = NodeCache(directory, limit=self.cache_bytes) if self.cache_bytes else None
        return ContentStore(store, cache=cache, connections=CONNECTIONS)
