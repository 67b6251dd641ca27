"""Every setting of the service. Only this module reads environment variables."""

import json
from operator import attrgetter
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field, SecretStr, field_validator, model_validator
from pydantic.fields import FieldInfo

from api.auth import MIN_KEY_LENGTH, SENDABLE
from pipeline.serving.available import TargetSettings
from pipeline.sources.access import SourceAccess
from pipeline.storage.settings import PREFIX, FromEnvironment, StorageSettings

LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


class Settings(StorageSettings, SourceAccess, TargetSettings, FromEnvironment, frozen=False):
    """Read from the environment with the prefix SECATEUR_, or given by name."""

    state_dir: Path = Field(
        default=Path(".secateur"),
        description="Directory of the embedded database, storage and Ray.",
    )
    database_url: str = Field(
        default="",
        description="SQLAlchemy URL: `sqlite:////path/file.db` or `postgresql+psycopg://user@host/name`. "
        "Left out: `secateur.db` in the state directory.",
    )
    presign_seconds: int = Field(
        default=3600, ge=1, le=604_800, description="Seconds for which a download address on S3 is valid."
    )
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
        default="",
        description="Address at which drivers and users reach the API. Left out: `http://<host>:<port>`.",
    )
    auth: Literal["keys", "none"] = Field(
        default="keys",
        description="`keys`: every request needs an API key. `none`: everyone who reaches the service may do "
        "everything.",
    )
    admin_key: SecretStr | None = Field(
        default=None,
        description="An admin key from a secret: `sec_<8 to 12 of a-z, 0-9>_<random>`, or at least "
        f"{MIN_KEY_LENGTH} random characters of `A-Z a-z 0-9 . _ ~ + / = -`. Another one at the next start "
        "revokes it. Without it, `secateur keys bootstrap` makes a first key; with the local Ray there is "
        "one in `api-key` in the state directory.",
    )
    max_running_jobs: int = Field(
        default=0,
        ge=0,
        description="Jobs that run at the same time; 0 means 1 on the local Ray and 100 on a cluster.",
    )
    max_attempts: int = Field(default=3, ge=1, le=100, description="Failed attempts before a job fails.")
    max_body_bytes: int = Field(
        default=1024 * 1024, ge=1024, description="Largest request body; drivers may send 16 times as much."
    )
    poll_seconds: float = Field(
        default=1.0, gt=0, le=60, description="Seconds between two looks at the state of jobs on Ray."
    )
    lease_seconds: float = Field(
        default=15.0,
        gt=0,
        le=600,
        description="Seconds without a sign of life from an API process until another one takes its jobs.",
    )
    resolve_at_once: int = Field(
        default=8, ge=1, le=32, description="Requests whose sources are read at a time; more get 429."
    )
    resolve_seconds: float = Field(
        default=120, gt=0, description="Seconds that the sources of one request may take to answer."
    )
    max_streams: int = Field(
        default=1000,
        ge=1,
        description="Streams of events that an API process sends; more are refused by 429.",
    )
    probes: Literal["open", "keys"] = Field(
        default="open",
        description="`keys`: /metrics needs a viewer's key, and /readyz says why only to callers with one.",
    )
    driver_silence_seconds: float = Field(
        default=900,
        ge=180,
        description="Seconds without a heartbeat after which a driver is ended although Ray says that it "
        "runs; its job is tried again. Drivers send one each minute.",
    )
    inspect_models: Literal["auto", "off"] = Field(
        default="auto",
        description="`auto`: where torch and transformers are installed, a submitted checkpoint is compared "
        "with its model at once, in one resident process. `off`: only the job's first stage does it.",
    )
    inspect_seconds: float = Field(
        default=30.0,
        gt=0,
        le=600,
        description="Seconds for that comparison, the start of its process included. If they do not suffice, "
        "the job's first stage compares.",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(default="INFO", description="Log level.")

    @field_validator("admin_key")
    @classmethod
    def _sendable(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not SENDABLE.fullmatch(value.get_secret_value()):
            raise ValueError(
                f"it must have {MIN_KEY_LENGTH} to 200 characters of A-Z a-z 0-9 . _ ~ + / = -, "
                f"and had {len(value.get_secret_value())} characters"
            )
        return value

    @model_validator(mode="after")
    def _fill_in(self) -> "Settings":
        self.state_dir = self.state_dir.absolute()
        self.database_url = self.database_url or f"sqlite:///{self.state_dir}/secateur.db"
        self.storage_url = self.storage_url or f"{self.state_dir.as_uri()}/storage"
        self.public_url = (self.public_url or f"http://{_reachable(self.host)}:{self.port}").rstrip("/")
        return self

    @property
    def embedded(self) -> bool:
        """True if the service runs a Ray of its own."""
        return self.ray_address is None

    @property
    def running_limit(self) -> int:
        """The number of jobs that may run at the same time."""
        return self.max_running_jobs or (1 if self.embedded else 100)

    def driver_environment(self) -> dict[str, str]:
        """The environment variables of every driver, without secrets, because Ray's dashboard shows them."""
        return {name: _text(value) for name, value in self._shared().items() if not _is_secret(value)}

    def secret_environment(self) -> dict[str, str]:
        """The secret environment variables, which only the local Ray inherits."""
        return {name: _text(value) for name, value in self._shared().items() if _is_secret(value)}

    def _shared(self) -> dict[str, object]:
        """The given settings that workers share, by the environment variables that they read too."""
        return {
            name: value
            for model in (StorageSettings, SourceAccess, TargetSettings)
            for name, (path, _) in variables(model).items()
            if (value := attrgetter(path)(self)) not in (None, "", ())
        }


class ClientSettings(FromEnvironment):
    """The settings that the CLI reads from the environment, beside its options."""

    url: str = Field(default="http://127.0.0.1:8080", description="Address of the service.")
    api_key: SecretStr | None = Field(
        default=None,
        description="API key. Left out, a service on this machine is given the one in `api-key` in the state "
        "directory.",
    )
    state_dir: Path = Field(default=Path(".secateur"), description="The state directory of a local service.")


def variables(model: type[BaseModel], *, within: str = "") -> dict[str, tuple[str, FieldInfo]]:
    """Maps each environment variable to the path of its field and the field, inner models included."""
    found: dict[str, tuple[str, FieldInfo]] = {}
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            found |= variables(inner, within=f"{within}{name}.")
        else:
            path = within + name
            found[PREFIX + path.replace(".", "_").upper()] = path, field
    return found


def _reachable(host: str) -> str:
    return "127.0.0.1" if host in ("0.0.0.0", "::", "") else host


def _is_secret(value: object) -> bool:
    return isinstance(value, SecretStr)


def _text(value: object) -> str:
    """The value of a setting as the text of its environment variable."""
    match value:
        case SecretStr():
            return value.get_secret_value()
        case bool():
            return "true" if value else "false"
        case tuple():
            return json.dumps([str(part) for part in value])
        case _:
            return str(value)
