"""Search for checkpoints below a prefix, and the test that one is complete and will not change any more.

No message says that an upload is finished. A checkpoint is taken when `pipeline.resolve.model` accepts it as
complete and two looks, `look_seconds` apart, find the same digest; or when its writer marks it as ready by a
marker file. As long as the listing of a directory stays the same, none of its files is read again.
"""

import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import PurePosixPath
from typing import Literal

from pipeline.artifacts.refs import MASKS_PATH
from pipeline.canonical import digest_of
from pipeline.checkpoint.layout import CONFIG_JSON, PICKLE_ENDINGS, WEIGHTS_INDEX_JSON
from pipeline.errors import (
    IncompleteCheckpoint,
    InvalidRequest,
    SourceChanged,
    SourceNotFound,
    SourceUnreachable,
)
from pipeline.resolve.model import resolve_model
from pipeline.sources.access import Source
from pipeline.sources.pins import Pin
from pipeline.sources.tree import Directory
from pipeline.spec.publishing import PACKED_FOLDER
from pipeline.spec.targets import TARGET_KINDS

State = Literal["incomplete", "unusable", "settling", "ready", "known"]
WEIGHTS_ENDINGS = (".safetensors", ".gguf", *PICKLE_ENDINGS)


@dataclass(frozen=True)
class Sight:
    """The state of a candidate at one look. `since`: when it was first seen with this content; `reason`: what
    it lacks.

    incomplete: files are missing. unusable: the files cannot be pruned until they are replaced. settling:
    complete, but seen once, or without its marker. ready: complete and stable. known: it already had a job.
    """

    listing: str
    state: State
    since: datetime
    digest: str | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Rules:
    """The rules by which a complete checkpoint counts as finished."""

    look_seconds: float
    ready_marker: str | None = None


def candidates(directories: Iterable[Directory]) -> tuple[Directory, ...]:
    """The directories that hold a file of a checkpoint. A published checkpoint may keep itself in the form of
    a target in a directory below it, which is no checkpoint."""
    found = [one for one in directories if any(_is_of_a_checkpoint(name) for name in one.names)]
    uris = {one.uri.rstrip("/") for one in found}
    return tuple(one for one in found if not _is_export(one.uri, uris))


def look(
    directory: Directory,
    open_it: Callable[[], Source],
    *,
    before: Sight | None,
    now: datetime,
    rules: Rules,
    needs_tokenizer: bool,
) -> Sight:
    """The present state of a candidate. Its source is read again unless its listing equals that of `before`.

    Raises SourceUnreachable or StorageError when the source stops answering.
    """
    listing = directory.listing
    if before is not None and before.listing == listing:
        found = before
    else:
        found = _examined(listing, open_it(), now=now, needs_tokenizer=needs_tokenizer)
    if found.digest is None:
        return found
    same = before is not None and before.digest == found.digest
    since = before.since if same and before is not None else now
    state, reason = _finished(directory, since=since, now=now, rules=rules)
    return Sight(listing=listing, state=state, since=since, digest=found.digest, reason=reason)


def checkpoint_digest(pin: Pin) -> str:
    """The identity of a checkpoint: path, size and tag of every file that would be read, wherever it lies."""
    return digest_of([file.model_dump(mode="json") for file in pin.files])


def natural_order(uri: str) -> tuple[tuple[int, str], ...]:
    """Sort key in which step-1000 comes after step-200."""
    parts = re.split(r"([0-9]+)", uri)
    return tuple((int(part), "") if part.isdecimal() else (-1, part) for part in parts)


def _examined(listing: str, source: Source, *, now: datetime, needs_tokenizer: bool) -> Sight:
    try:
        pin, _ = resolve_model(source, needs_tokenizer=needs_tokenizer)
    except SourceUnreachable:
        raise
    except (IncompleteCheckpoint, SourceNotFound, SourceChanged) as error:
        return Sight(listing=listing, state="incomplete", since=now, reason=error.message)
    except InvalidRequest as error:
        return Sight(listing=listing, state="unusable", since=now, reason=error.message)
    return Sight(listing=listing, state="settling", since=now, digest=checkpoint_digest(pin))


def _finished(
    directory: Directory, *, since: datetime, now: datetime, rules: Rules
) -> tuple[State, str | None]:
    if rules.ready_marker is not None:
        if rules.ready_marker in directory.names:
            return "ready", None
        return "settling", f"complete, and {rules.ready_marker} does not lie there yet"
    if now - since >= timedelta(seconds=rules.look_seconds):
        return "ready", None
    return "settling", f"complete; taken when it is still the same after {rules.look_seconds:g} s"


def _is_export(uri: str, checkpoints: Collection[str]) -> bool:
    above, _, name = uri.rstrip("/").rpartition("/")
    return name in (*TARGET_KINDS, PACKED_FOLDER) and above in checkpoints


def _is_of_a_checkpoint(name: str) -> bool:
    """True for the files that mark a checkpoint. A published checkpoint keeps its masks in a directory of
    their own, which is no checkpoint."""
    if name == PurePosixPath(MASKS_PATH).name:
        return False
    return name in (CONFIG_JSON, WEIGHTS_INDEX_JSON) or name.endswith(WEIGHTS_ENDINGS)
