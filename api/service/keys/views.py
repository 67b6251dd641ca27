"""Keys as users see them. Only the answer to the making of a key contains its secret."""

from typing import Literal

from pydantic import Field

from api.auth import Role
from pipeline.canonical import Frozen

KeyState = Literal["active", "expired", "revoked"]


class KeyRequest(Frozen):
    """The body of POST /keys. Viewers may read, submitters may also start and stop work, and admins may also
    make and revoke keys."""

    name: str = Field(
        min_length=1,
        max_length=100,
        pattern=r"^[^\s\x00-\x1f\x7f]([^\x00-\x1f\x7f]*[^\s\x00-\x1f\x7f])?$",
        description="The owner or the purpose of the key.",
        examples=["night shift"],
    )
    role: Role = "viewer"
    expires_days: int | None = Field(default=None, ge=1, le=3650, description="Left out: it never expires.")


class KeyView(Frozen):
    """A key without its secret. Times are Unix seconds; `last_used_at` is at most a minute late."""

    id: str
    object: Literal["key"] = "key"
    name: str
    role: Role
    prefix: str = Field(description="The beginning of the key.")
    state: KeyState
    created_at: int
    expires_at: int | None
    last_used_at: int | None
    revoked_at: int | None


class NewKeyView(KeyView):
    """A key that was just made."""

    key: str = Field(repr=False, description="The whole key. It is not shown again.")


class KeyList(Frozen):
    """All keys, newest first."""

    object: Literal["list"] = "list"
    data: tuple[KeyView, ...]


class CallerView(Frozen):
    """The caller. `prefix` is the beginning of the key; null where the service needs no key."""

    name: str
    role: Role
    prefix: str | None
