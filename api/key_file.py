"""`<state directory>/api-key` holds the key of the local service, for everyone who may read the directory."""

import os
import secrets
from pathlib import Path

NAME = "api-key"


def read_key(state_dir: Path) -> str | None:
    """Returns the key; None when there is none, or when this user may not read it."""
    try:
        return (state_dir / NAME).read_text(encoding="utf-8", errors="replace").strip() or None
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None


def write_key(state_dir: Path, key: str) -> None:
    """Write the key, readable by the owner alone. A reader sees the old file or the new one, never a part."""
    state_dir.mkdir(parents=True, exist_ok=True)
    aside = state_dir / f".{NAME}-{secrets.token_hex(4)}"
    try:
        with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(f"{key}\n")
            file.flush()
            os.fsync(file.fileno())
        aside.replace(state_dir / NAME)
    finally:
        aside.unlink(missing_ok=True)
