"""Every setting of the service: the only place where environment variables are read."""

import json
import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from api.auth import SENDABLE, SHORTEST_KEY
from pipeline.storage.options import S3Options

PREFIX = "SECATEUR_"
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
# What a driver on the cluster needs to know as well. Keys and tokens reach it from the cluster itself.
DRIVER_FIELDS = (
    "storage_url",
    "s3_endpoint_url",
    "s3_region",
    "s3_sse",
    "s3_kms_key_id",
    "s3_checksums",
    "allowed_roots",
    "hub_endpoint",
    "hub_cache_dir",
    "hub_offline",
)
DRIVER_SECRETS = ("s3_access_key", "s3_secret_key", "hub_token")


class Settings(BaseSettings):
    """Read from the environment with the prefix SECATEUR_, or given by name."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, extra="forbid", env_ignore_empty=True, hide_input_in_errors=True
    )

    state_dir: Path = Field(
        default=Path(".secateur"),
        description="Where the embedded database, storage and Ray keep their files.",
    )
    database_url: str = Field(
        default="",
        description="SQLAlchemy URL: `sqlite:////path/file.db` or `postgresql+psycopg://user@host/name`. "
        "Left out: `secateur.db` in the state directory.",
    )
    storage_url: str = Field(
        default="",
        description="`file:///absolute/path` or "
        "`s3://bucket/prefix`. Left out: `storage` in the state directory.",
    )
    s3_endpoint_url: str | None = Field(default=None, description="S3 server other than AWS.")
    s3_region: str | None = Field(default=None, description="S3 region.")
    s3_access_key: SecretStr | None = Field(
        default=None, description="S3 access key; left out, boto3 looks in its usual places."
    )
    s3_secret_key: SecretStr | None = Field(default=None, description="S3 secret key.")
    s3_sse: Literal["AES256", "aws:kms"] | None = Field(
        default=None, description="Server-side encryption of what is stored."
    )
    s3_kms_key_id: str | None = Field(default=None, description="KMS key, with `aws:kms` only.")
    s3_checksums: bool = Field(
        default=True, description="SHA-256 checksums on uploads; off for servers that refuse them."
    )
    presign_seconds: int = Field(
        default=3600, ge=1, le=604_800, description="How long a download address on S3 stays good."
    )
    allowed_roots: Annotated[tuple[Path, ...], NoDecode] = Field(
        default=(),
        description="Directories below which `file:` sources may lie: a JSON list, or separated by `:`.",
    )
    hub_endpoint: str | None = Field(default=None, description="Hugging Face hub, or a mirror of it.")
    hub_token: SecretStr | None = Field(default=None, description="Token for gated or private repositories.")
    hub_cache_dir: Path | None = Field(default=None, description="Where files of the hub are kept.")
    hub_offline: bool = Field(default=False, description="Refuse `hub:` sources that are not cached.")
    ray_address: str | None = Field(
        default=None,
        description="Ray dashboard address, such as `http://head:8265`. Left out: a local Ray is started.",
    )
    ray_token_path: Path | None = Field(
        default=None,
        description="File with the token of the Ray cluster (its `RAY_AUTH_MODE=token`), read at every call. "
        "The local Ray makes its own, `ray-token` in the state directory.",
    )
    ray_num_cpus: int | None = Field(
        default=None, ge=1, description="CPUs of the local Ray. Left out: all of the machine."
    )
    driver_python: str = Field(
        default="",
        description="Python that runs drivers. Left out: this one for the local Ray, `python` on a cluster.",
    )
    driver_module: str = Field(default="workers.driver", description="Module that runs an attempt.")
    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=8080, ge=1, le=65535, description="Port to listen on.")
    public_url: str = Field(
        default="", description="How drivers and users reach the API. Left out: `http://<host>:<port>`."
    )
    auth: Literal["keys", "none"] = Field(
        default="keys",
        description="`keys`: every request needs an API key. `none`: whoever reaches the service may do "
        "everything.",
    )
    admin_key: SecretStr | None = Field(
        default=None,
        description="An admin key from a secret: `sec_<8 to 12 of a-z, 0-9>_<random>`, or at least "
        f"{SHORTEST_KEY} random characters of `A-Z a-z 0-9 . _ ~ + / = -`. Another one at the next start "
        "revokes it. Without it, `secateur keys bootstrap` makes a first key; with the local Ray there is "
        "one in `api-key` in the state directory.",
    )
    max_running_jobs: int = Field(
        default=0, ge=0, description="Jobs at work at a time; 0: 1 on the local Ray, 100 on a cluster."
    )
    max_attempts: int = Field(default=3, ge=1, le=100, description="Failed attempts before a job fails.")
    max_body_bytes: int = Field(
        default=1024 * 1024, ge=1024, description="Largest request body; drivers may send 16 times as much."
    )
    poll_seconds: float = Field(
        default=1.0, gt=0, le=60, description="How often the state of jobs on Ray is looked at."
    )
    lease_seconds: float = Field(
        default=15.0,
        gt=0,
        le=600,
        description="After this long without a word from an API, another takes its jobs.",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(default="INFO", description="Log level.")

    @field_validator("admin_key")
    @classmethod
    def _sendable(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not SENDABLE.fullmatch(value.get_secret_value()):
            raise ValueError(
                f"it must have {SHORTEST_KEY} to 200 characters of A-Z a-z 0-9 . _ ~ + / = -, "
                f"and had {len(value.get_secret_value())} characters"
            )
        return value

    @field_validator("allowed_roots", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        if value.lstrip().startswith("["):
            return json.loads(value)
        return [part for part in value.split(os.pathsep) if part]

    @field_validator("allowed_roots")
    @classmethod
    def _absolute_roots(cls, value: tuple[Path, ...]) -> tuple[Path, ...]:
        return tuple(path.absolute() for path in value)

    @model_validator(mode="after")
    def _fill_in(self) -> "Settings":
        self.state_dir = self.state_dir.absolute()
        self.database_url = self.database_url or f"sqlite:///{self.state_dir}/secateur.db"
        self.storage_url = self.storage_url or f"file://{self.state_dir}/storage"
        self.public_url = (self.public_url or f"http://{_reachable(self.host)}:{self.port}").rstrip("/")
        return self

    @property
    def embedded(self) -> bool:
        """Whether the service runs a Ray of its own."""
        return self.ray_address is None

    @property
    def running_limit(self) -> int:
        """Jobs at work at a time."""
        return self.max_running_jobs or (1 if self.embedded else 100)

    @property
    def s3_options(self) -> S3Options:
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

    def driver_environment(self) -> dict[str, str]:
        """Environment variables that every driver gets. No secrets: Ray shows them to whoever may look."""
        return _variables(self, DRIVER_FIELDS)

    def secret_environment(self) -> dict[str, str]:
        """What the local Ray inherits beside that."""
        return {
            PREFIX + name.upper(): text for name in DRIVER_SECRETS if (text := _text(getattr(self, name)))
        }


class ClientSettings(BaseSettings):
    """What the CLI reads from the environment beside its options."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, hide_input_in_errors=True)

    url: str = Field(default="http://127.0.0.1:8080", description="Address of the service.")
    api_key: SecretStr | None = Field(
        default=None,
        description="API key. Left out, a service on this machine is given the one in `api-key` in the state "
        "directory.",
    )
    state_dir: Path = Field(default=Path(".secateur"), description="The state directory of a local service.")


def _reachable(host: str) -> str:
    return "127.0.0.1" if host in ("0.0.0.0", "::", "") else host


def _revealed(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret is not None else None


def _variables(settings: Settings, names: tuple[str, ...]) -> dict[str, str]:
    texts = {PREFIX + name.upper(): _text(getattr(settings, name)) for name in names}
    return {name: text for name, text in texts.items() if text}


def _text(value: object) -> str:
    """A setting as its environment variable; empty when it is not set."""
    match value:
        case None:
            return ""
        case SecretStr():
            return value.get_secret_value()
        case bool():
            return "true" if value else "false"
        case tuple():
            return json.dumps([str(part) for part in value])
        case _:
            return str(value)
