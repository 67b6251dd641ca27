"""Rows of a hub dataset, streamed by the `datasets` library at the pinned commit."""

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

from pipeline.errors import InvalidSpec, SourceNotAllowed, SourceNotFound, StorageUnavailable
from pipeline.sources.access import TOKEN_SETTING, SourceAccess
from pipeline.sources.pins import Pin
from pipeline.spec.texts import TextSource
from pipeline.spec.uri import parse_uri
from pipeline.text.chats import ChatReader
from pipeline.text.rows import document, no_column

if TYPE_CHECKING:
    from datasets import DatasetBuilder


def hub_rows(text: TextSource, pin: Pin, access: SourceAccess, reader: ChatReader | None) -> Iterator[str]:
    """Yields the column of every row of a split, and reads only as far as it is consumed. `reader`: what
    reads chats.

    A split may end in `[:N]`, which stops after N rows: the first shard of C4 is `train[:356317]`. With the
    hub off, the dataset's snapshot in the hub cache is read.
    """
    split, rows = _split(text)
    with tempfile.TemporaryDirectory(prefix="secateur-datasets-") as cache_dir, _translated(text, access):
        builder = _builder(text, pin, access, cache_dir=cache_dir)
        table = builder.as_streaming_dataset(split=split)
        if table.column_names is not None:
            if text.column not in table.column_names:
                raise no_column(text, table.column_names, where=text.source)
            table = table.select_columns([text.column])
        for number, row in enumerate(islice(table, rows), start=1):
            if text.column not in row:
                raise no_column(text, list(row), where=text.source)
            yield document(row[text.column], text, reader, where=f"{text.source} row {number}")


def _split(text: TextSource) -> tuple[str, int | None]:
    found = re.fullmatch(r"([^\[\]]+)(?:\[:(\d+)\])?", text.split)
    if found is None:
        raise InvalidSpec(
            f"split {text.split!r} of {text.source}: write a name, or name[:N] for its first N rows"
        )
    return found[1], None if found[2] is None else int(found[2])


def _builder(text: TextSource, pin: Pin, access: SourceAccess, *, cache_dir: str) -> "DatasetBuilder":
    """Returns a builder for the files of the pinned commit and no others.

    `cache_dir` must be empty: without network the library would take any older version that it had prepared
    there.
    """
    import datasets
    import huggingface_hub

    uri = parse_uri(pin.source)
    if access.hub_offline:
        directory = huggingface_hub.snapshot_download(
            uri.location,
            repo_type="dataset",
            revision=uri.revision,
            cache_dir=access.hub_cache_dir,
            local_files_only=True,
        )
        builder = datasets.load_dataset_builder(directory, text.config, cache_dir=cache_dir)
        repository = os.path.realpath(os.path.join(directory, "..", ".."))
        files = [os.path.realpath(path) for path in _data_files(builder)]
    else:
        if access.hub_endpoint is not None:
            datasets.config.HF_ENDPOINT = access.hub_endpoint  # the library has no other way to set it
        path = (
            f"hf://datasets/{uri.location}"  # a bare name would first be looked for in the working directory
        )
        builder = datasets.load_dataset_builder(
            path, text.config, cache_dir=cache_dir, revision=uri.revision, token=access.bearer
        )
        repository = f"{path}@{uri.revision}"
        files = [path.rpartition("::")[2] for path in _data_files(builder)]
    foreign = [path for path in files if not path.startswith(f"{repository}/")]
    if foreign:
        raise SourceNotAllowed(
            f"{text.source} takes data from outside of its repository ({foreign[0]}), where nothing is pinned"
        )
    return builder


def _data_files(builder: "DatasetBuilder") -> list[str]:
    return [str(path) for paths in (builder.config.data_files or {}).values() for path in paths]


@contextlib.contextmanager
def _translated(text: TextSource, access: SourceAccess) -> Iterator[None]:
    """Turns the library's errors into this project's errors."""
    from datasets.exceptions import DatasetNotFoundError
    from huggingface_hub.errors import LocalEntryNotFoundError

    from pipeline.sources.hub import NETWORK_ERRORS

    try:
        yield
    except DatasetNotFoundError as error:
        raise SourceNotAllowed(
            f"{text.source} cannot be read: {error} If it is gated or private, set {TOKEN_SETTING} to the "
            f"token of an account that may read it"
        ) from error
    except LocalEntryNotFoundError as error:
        raise SourceNotFound(
            f"{text.source} is not whole in the hub cache, and the hub is off on this service: {error}"
        ) from error
    except FileNotFoundError as error:
        if any(isinstance(cause, LocalEntryNotFoundError) for cause in _causes(error)):
            raise StorageUnavailable(f"the hub did not answer for {text.source}: {error}") from error
        raise SourceNotFound(f"{text.source} has no data files that can be read: {error}") from error
    except ValueError as error:  # unknown configs and splits; the message lists the known ones
        raise InvalidSpec(f"{text.source}: {error}") from error
    except NETWORK_ERRORS as error:
        raise StorageUnavailable(
            f"the hub stopped answering for {text.source} ({type(error).__name__}: {error})"
        ) from error


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yields the causes of an error: if the hub fails, the library looks in caches and reports that they lack
    the file."""
    while error.__context__ is not None:
        error = error.__context__
        yield error
