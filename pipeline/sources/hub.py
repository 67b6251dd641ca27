"""`hub:` sources: repositories of a Hugging Face hub, or of the cache that its client keeps."""

import contextlib
from collections.abc import Generator, Iterator
from pathlib import Path

import huggingface_hub
from huggingface_hub import errors as hub_errors
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # exported lazily
    build_hf_headers,
    hf_raise_for_status,
    http_stream_backoff,
    validate_repo_id,
)

from pipeline.errors import (
    InvalidRequest,
    InvalidSpec,
    SourceNotAllowed,
    SourceNotFound,
    SourceUnreachable,
    StorageUnavailable,
)
from pipeline.sources.access import TOKEN_SETTING, Repository, SourceAccess, Wanted, counts
from pipeline.sources.hub_cache import HubCache
from pipeline.sources.pins import Pin, PinnedFile
from pipeline.sources.tags import changed, checked
from pipeline.spec.uri import Uri
from pipeline.storage.base import CHUNK_BYTES
from pipeline.storage.resume import Body, BrokenBody, read_resuming

ANSWER_SECONDS = 10.0
BUSY_RETRIES = 3
# The client's HTTP library changed between releases; this base error is common to all of them.
NETWORK_ERRORS = (hub_errors.HTTPError, OSError)  # type: ignore[attr-defined]


class HubSource:
    """One repository. The first listing fixes the commit for the life of this object."""

    def __init__(self, uri: Uri, access: SourceAccess, repository: Repository) -> None:
        self.uri = str(uri)
        self.name = uri.location
        self.revision = uri.revision or "main"
        self.repository = repository
        self.access = access
        try:
            validate_repo_id(self.name)
        except hub_errors.HFValidationError as error:
            raise InvalidSpec(f"hub:{self.name} names no repository: {error}") from error
        self.cache = HubCache(repository, self.name, access.hub_cache_dir)
        self.api = huggingface_hub.HfApi(access.hub_endpoint, token=access.bearer)
        self._listing: tuple[str, tuple[PinnedFile, ...]] | None = None
        self._folders: tuple[str, ...] = ()

    def names(self) -> tuple[str, ...]:
        """See Source."""
        return tuple(file.path for file in self._listed()[1])

    def folders(self) -> tuple[str, ...]:
        """See Source."""
        self._listed()
        return self._folders

    def pin(self, wanted: Wanted) -> Pin:
        """See Source. Tags are SHA-256, or git object ids for small files; a dataset's tag is its commit."""
        commit, files = self._listed()
        if self.repository == "dataset":
            files = (PinnedFile(path=f"datasets/{self.name}", size=0, tag=f"commit:{commit}"),)
        else:
            files = tuple(file for file in files if wanted(file.path))
        return Pin(source=f"hub:{self.name}@{commit}", files=files)

    def read(self, file: PinnedFile) -> Iterator[bytes]:
        """See Source. Reads from the cache if it has the file at this commit, and otherwise streams over
        HTTP."""
        commit, what = self._place(file)
        cached = self._cached_file(commit, file, what=what)
        if cached is None and file.size > huggingface_hub.constants.MAX_HTTP_DOWNLOAD_SIZE:
            cached = self._downloaded(commit, file)
        if cached is not None:
            with cached.open("rb") as opened:
                yield from checked(iter(lambda: opened.read(CHUNK_BYTES), b""), file, what=what)
            return
        streamed = read_resuming(
            lambda position, _: Body(self._stream(commit, file, position), file.size, file.tag),
            start=0,
            what=what,
        )
        yield from checked(streamed, file, what=what)

    def head(self, file: PinnedFile, size: int) -> bytes:
        """See Source. One request asks for these bytes alone, at the pinned commit."""
        commit, what = self._place(file)
        cached = self._cached_file(commit, file, what=what)
        if cached is not None:
            with cached.open("rb") as opened:
                return opened.read(size)
        end = min(size, file.size)
        streamed = read_resuming(
            lambda position, _: Body(self._stream(commit, file, position, end=end), end, file.tag),
            start=0,
            what=what,
        )
        return b"".join(streamed)

    def _place(self, file: PinnedFile) -> tuple[str, str]:
        """Returns the commit to read a file from, and the file's address for errors."""
        if self.repository == "dataset":
            raise InvalidSpec(f"hub:{self.name} is a dataset; its rows are read, not its files")
        commit = self._listing[0] if self._listing is not None else self.revision
        return commit, f"hub:{self.name}@{commit}/{file.path}"

    def _cached_file(self, commit: str, file: PinnedFile, *, what: str) -> Path | None:
        """Returns the file in the cache; None when it must be fetched."""
        cached = self.cache.path(commit, file.path)
        if cached is None and self.access.hub_offline:
            raise changed(what, "a cached file (the hub is off)", "nothing")
        return cached

    def _listed(self) -> tuple[str, tuple[PinnedFile, ...]]:
        """Returns the commit and the files of the repository."""
        if self._listing is None:
            self._listing = self._cached() if self.access.hub_offline else self._asked()
        return self._listing

    def _asked(self) -> tuple[str, tuple[PinnedFile, ...]]:
        try:
            with self._translated():
                info = self.api.repo_info(
                    self.name,
                    revision=self.revision,
                    repo_type=self.repository,
                    files_metadata=self.repository == "model",
                    timeout=ANSWER_SECONDS,
                )
                if getattr(info, "gated", False):
                    self._check_terms_accepted()
        except SourceUnreachable:
            if self.cache.commit(self.revision) == self.revision:  # a commit has the same content everywhere
                return self._cached()
            raise
        siblings = info.siblings if isinstance(info, huggingface_hub.ModelInfo) else None
        found = [file for file in siblings or () if counts(file.rfilename)]
        names = [file.rfilename for file in siblings or ()]
        self._folders = tuple(sorted({name.partition("/")[0] for name in names if "/" in name}))
        files = [
            PinnedFile(
                path=file.rfilename,
                size=file.size or 0,
                tag=f"sha256:{file.lfs.sha256}" if file.lfs else f"git:{file.blob_id}",
            )
            for file in found
        ]
        if info.sha is None:
            raise SourceUnreachable(f"the hub gave no commit for hub:{self.name}@{self.revision}")
        return info.sha, tuple(sorted(files, key=lambda file: file.path))

    def _check_terms_accepted(self) -> None:
        """Checks access to a gated repository, because everyone can list it, but only those who accepted its
        terms can read it."""
        url = f"{self.api.endpoint}/api/{self.repository}s/{self.name}/auth-check"
        headers = build_hf_headers(token=self.api.token)
        with http_stream_backoff(
            "GET", url, headers=headers, timeout=ANSWER_SECONDS, max_retries=0
        ) as answer:
            hf_raise_for_status(answer)

    def _cached(self) -> tuple[str, tuple[PinnedFile, ...]]:
        commit = self.cache.commit(self.revision)
        if commit is None:
            raise SourceNotFound(
                f"hub:{self.name}@{self.revision} is not in the hub cache {self.cache.folder}, and the hub "
                f"is off on this service; download it there first: hf download {self.name} "
                f"--repo-type {self.repository} --revision {self.revision}"
            )
        if self.repository != "model":
            return commit, ()
        self._folders = self.cache.folders(commit)
        return commit, self.cache.files(commit)

    def _downloaded(self, commit: str, file: PinnedFile) -> Path:
        """Downloads a file that is too large for plain HTTP: the client's other protocol needs a local
        file."""
        with self._translated():
            path = self.api.hf_hub_download(
                self.name, file.path, revision=commit, cache_dir=self.access.hub_cache_dir
            )
        return Path(path)

    def _stream(
        self, commit: str, file: PinnedFile, position: int, *, end: int | None = None
    ) -> Generator[bytes, None, None]:
        """Sends one GET from a byte to the file's end, or to the byte before `end`."""
        stop = file.size if end is None else end
        url = huggingface_hub.hf_hub_url(self.name, file.path, revision=commit, endpoint=self.api.endpoint)
        headers = build_hf_headers(token=self.api.token) | {"Accept-Encoding": "identity"}
        if position or end is not None:
            headers["Range"] = f"bytes={position}-{'' if end is None else end - 1}"
        try:
            with http_stream_backoff(
                "GET",
                url,
                headers=headers,
                timeout=ANSWER_SECONDS,
                max_retries=BUSY_RETRIES,
                retry_on_exceptions=(),  # read_resuming continues after broken connections
            ) as response:
                hf_raise_for_status(response)
                if position and response.status_code != 206:
                    raise StorageUnavailable(f"the hub does not continue {file.path} at byte {position}")
                for chunk in response.iter_bytes(CHUNK_BYTES):
                    asked = chunk if end is None else chunk[: stop - position]
                    position += len(asked)
                    yield asked
                    if end is not None and position == stop:  # a server may send more than it was asked for
                        return
        except hub_errors.HfHubHTTPError as error:
            refusal = self._refusal(error)
            if isinstance(refusal, SourceUnreachable):
                raise StorageUnavailable(refusal.message) from error
            raise refusal from error
        except NETWORK_ERRORS as error:
            raise BrokenBody(f"{type(error).__name__}: {error}", short=False) from error
        if position < stop:
            raise BrokenBody("the hub closed the connection", short=True)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except hub_errors.HfHubHTTPError as error:
            raise self._refusal(error) from error
        except NETWORK_ERRORS as error:
            raise SourceUnreachable(
                f"the hub at {self.api.endpoint} did not answer for hub:{self.name} "
                f"({type(error).__name__}: {error}); if this service has no network, turn hub_offline on"
            ) from error

    def _refusal(self, error: hub_errors.HfHubHTTPError) -> InvalidRequest:
        """Returns the error that explains the hub's HTTP error to the submitter."""
        status = error.response.status_code
        remedy = (
            f"accept its terms on {self.api.endpoint}/{self.name} and check what the token in "
            f"{TOKEN_SETTING} may read"
            if self.access.hub_token
            else f"set {TOKEN_SETTING} to the token of an account that may read it"
        )
        if isinstance(error, hub_errors.RevisionNotFoundError):
            return SourceNotFound(
                f"hub:{self.name} has no revision {self.revision!r}; check the branch or commit"
            )
        if isinstance(error, hub_errors.GatedRepoError) or status == 403:
            return SourceNotAllowed(f"hub:{self.name} is gated; {remedy}")
        if isinstance(error, hub_errors.RepositoryNotFoundError):
            return SourceNotFound(
                f"the hub knows no {self.repository} {self.name!r}, or it is private; check the name, "
                f"or {remedy}"
            )
        if status == 401:
            return SourceNotAllowed(f"the hub refused the token for hub:{self.name}; {remedy}")
        if status == 404:
            return SourceNotFound(f"hub:{self.name}@{self.revision}: {error.server_message or 'not found'}")
        return SourceUnreachable(f"the hub answered HTTP {status} for hub:{self.name}; try again later")
