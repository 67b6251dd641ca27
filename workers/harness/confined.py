"""The limits within which lm-eval loads and asks tasks.

It gets its data through here: files of the include directory, and datasets of the hub at one commit. Metrics
that would be fetched as code are refused, and prompts are rendered in Jinja's sandbox: the author of a task
file may not run code in a worker. Every patch is undone afterwards, because Ray reuses a process for other
stages.
"""

import contextlib
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import evaluate
import huggingface_hub
import lm_eval.utils
from datasets.exceptions import DatasetNotFoundError, DatasetsError
from huggingface_hub import errors as hub_errors
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from jinja2 import BaseLoader, StrictUndefined
from jinja2.sandbox import SandboxedEnvironment

from pipeline.errors import (
    InvalidSpec,
    SecateurError,
    SourceNotAllowed,
    SourceNotFound,
    SourceUnreachable,
    StorageUnavailable,
)
from pipeline.evaluation.task_files import DATA_FORMATS
from pipeline.sources import SourceAccess, open_source
from pipeline.sources.hub import NETWORK_ERRORS
from pipeline.spec.uri import parse_uri

REPOSITORY = re.compile(r"[\w.-]+(/[\w.-]+)?")


@dataclass
class Confined:
    """The state of lm-eval's limits.

    `directory`: the include directory's files. `commits`: hub dataset → commit; a dataset that is not in it
    is pinned when lm-eval first asks for it. `used` and `refused`: the datasets that lm-eval got, and the
    code that it was refused, since these lists were cleared.
    """

    access: SourceAccess
    directory: Path
    commits: dict[str, str] = field(default_factory=dict)
    used: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    def fixed(self, dataset: str) -> str:
        """The commit of a hub dataset. Raises StorageUnavailable when the hub does not answer."""
        if dataset not in self.commits:
            try:
                pin = open_source(f"hub:{dataset}", self.access, repository="dataset").pin(lambda name: True)
            except SourceUnreachable as error:  # a request would be refused, a running job tries again
                raise StorageUnavailable(error.message) from error
            commit = parse_uri(pin.source).revision
            assert commit is not None, "a pinned repository has a commit"
            self.commits[dataset] = commit
        self.used.append(dataset)
        return self.commits[dataset]


@contextlib.contextmanager
def confined(
    access: SourceAccess, directory: Path, commits: Mapping[str, str] | None = None
) -> Iterator[Confined]:
    """Put lm-eval within its limits while a block of code runs."""
    state = Confined(access, directory, dict(commits or {}))
    with contextlib.ExitStack() as stack:
        prepared = stack.enter_context(tempfile.TemporaryDirectory(prefix="secateur-datasets-"))
        load = datasets.load_dataset

        def load_dataset(path: str, name: str | None = None, **options: Any) -> Any:
            options.setdefault("cache_dir", prepared)  # empty, so that no other version is taken from it
            with _translated(path):
                return load(**_allowed(state, path, name, options))

        def load_code(name: str, *args: Any, **options: Any) -> Any:
            state.refused.append(f"metric {name!r}, which is code from the hub")
            raise SourceNotAllowed(f"metric {name!r} is code from the hub, and no foreign code is run here")

        replaced = [
            (datasets, "load_dataset", load_dataset),
            (evaluate, "load", load_code),
            (lm_eval.utils, "env", _sandbox()),
        ]
        if access.hub_endpoint is not None:
            replaced.append((datasets.config, "HF_ENDPOINT", access.hub_endpoint))
        if access.hub_cache_dir is not None:
            replaced.append((huggingface_hub.constants, "HF_HUB_CACHE", str(access.hub_cache_dir)))
        for owner, attribute, value in replaced:
            stack.callback(setattr, owner, attribute, getattr(owner, attribute))
            setattr(owner, attribute, value)
        yield state


def _sandbox() -> SandboxedEnvironment:
    """An environment like lm-eval's own that is safe for templates of strangers."""
    own = lm_eval.utils.env
    sandbox = SandboxedEnvironment(
        loader=BaseLoader(), undefined=StrictUndefined, keep_trailing_newline=own.keep_trailing_newline
    )
    sandbox.filters.update(own.filters)
    return sandbox


def _allowed(state: Confined, path: str, name: str | None, options: dict[str, Any]) -> dict[str, Any]:
    """The arguments of load_dataset, with the data pinned. Raises SourceNotAllowed for code."""
    if options.pop("trust_remote_code", None):
        raise SourceNotAllowed(f"dataset {path} asks to run its own code, and no foreign code is run here")
    if path in DATA_FORMATS:
        if "data_files" in options:
            options["data_files"] = _located(state.directory, options["data_files"])
        return {"path": path, "name": name, **options}
    if not REPOSITORY.fullmatch(path):
        raise SourceNotAllowed(f"dataset {path!r} is no name on the hub")
    commit = options.pop("revision", None) or state.fixed(path)
    if state.access.hub_offline:
        directory = huggingface_hub.snapshot_download(
            path,
            repo_type="dataset",
            revision=commit,
            cache_dir=state.access.hub_cache_dir,
            local_files_only=True,
        )
        return {"path": directory, "name": name, **options}
    # A bare name would first be looked for in the working directory.
    where = f"hf://datasets/{path}"
    token = state.access.bearer
    return {"path": where, "name": name, "revision": commit, "token": token, **options}


def _located(directory: Path, files: Any) -> Any:
    """Turn file names into paths in the include directory. The addresses of lm-eval's own tasks stay."""
    if isinstance(files, Mapping):
        return {split: _located(directory, inner) for split, inner in files.items()}
    if isinstance(files, list | tuple):
        return [_located(directory, inner) for inner in files]
    if "://" in str(files):
        return files
    found = directory / str(files)
    if found.parent != directory or not found.is_file():
        raise SourceNotFound(f"data file {files!r} is not in the include directory")
    return str(found)


@contextlib.contextmanager
def _translated(dataset: str) -> Iterator[None]:
    """Turn the library's errors into ours."""
    try:
        yield
    except SecateurError:
        raise
    except DatasetNotFoundError as error:
        raise SourceNotFound(f"dataset {dataset} cannot be loaded: {error}") from error
    except LocalEntryNotFoundError as error:
        raise SourceNotFound(
            f"dataset {dataset} is not in the hub cache, and the hub is off on this service: {error}"
        ) from error
    except (*NETWORK_ERRORS, DatasetsError, ValueError) as error:
        if any(_is_away(cause) for cause in _causes(error)):
            raise StorageUnavailable(
                f"the hub stopped answering for dataset {dataset} ({type(error).__name__}: {error})"
            ) from error
        raise InvalidSpec(f"dataset {dataset} cannot be read: {error}") from error


def _is_away(error: BaseException) -> bool:
    """Tells whether a server did not answer, rather than refuse."""
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in (408, 429) or error.response.status_code >= 500
    return isinstance(error, hub_errors.HTTPError | ConnectionError | TimeoutError)  # type: ignore[attr-defined]


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and the chain of its causes."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
