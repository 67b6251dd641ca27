"""A stand-in for the Hugging Face hub, because tests run offline. It answers, on loopback, the requests that
huggingface_hub and datasets send. Its answers follow from their sources, and not from the real hub.
"""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Repository:
    """The files of one commit. `lfs` names the files that are listed with their SHA-256."""

    files: dict[str, bytes]
    lfs: frozenset[str] = frozenset()
    gated: bool = False
    commit: str = COMMIT


@dataclass
class Hub:
    """Repositories by kind and name. The first download of more than `break_after` bytes breaks off there."""

    endpoint: str = ""
    token: str = "a-token"
    models: dict[str, Repository] = field(default_factory=dict)
    datasets: dict[str, Repository] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    break_after: int | None = None
    status: int | None = None

    def paths(self, method: str = "GET") -> list[str]:
        """The paths of the requests so far with this method."""
        return [path for asked, path in self.requests if asked == method]


def model_repository(directory: Path) -> Repository:
    """A repository with the files of a directory; weights are in LFS, as on the hub."""
    files = {path.name: path.read_bytes() for path in sorted(directory.iterdir()) if path.is_file()}
    return Repository(files, frozenset(name for name in files if name.endswith(".safetensors")))


def git_id(content: bytes) -> str:
    """The object id that git gives to a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextmanager
def serve_hub() -> Iterator[Hub]:
    """Runs the stand-in on a free port."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def cache_repository(cache: Path, name: str, repository: Repository, *, kind: str = "model") -> Path:
    """Write a repository into a client's cache, with `main` at its commit, and return the snapshot."""
    folder = cache / "--".join([f"{kind}s", *name.split("/")])
    snapshot = folder / "snapshots" / repository.commit
    (folder / "refs").mkdir(parents=True)
    (folder / "blobs").mkdir()
    (folder / "refs" / "main").write_text(repository.commit)
    for path, content in repository.files.items():
        etag = hashlib.sha256(content).hexdigest() if path in repository.lfs else git_id(content)
        (folder / "blobs" / etag).write_bytes(content)
        link = snapshot / path
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(folder / "blobs" / etag)
    return snapshot


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_HEAD(self) -> None:
        self._answer(b"")

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Log nothing."""

    def _answer(self, body: bytes) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path))
        if self.hub.status is not None:
            self._json({"error": "on purpose"}, status=self.hub.status)
            return
        for kind, repositories in (("models", self.hub.models), ("datasets", self.hub.datasets)):
            for name, repository in repositories.items():
                web = f"/{name}/resolve/" if kind == "models" else f"/datasets/{name}/resolve/"
                api = f"/api/{kind}/{name}/"
                if path.startswith(web):
                    self._file(repository, path.removeprefix(web))
                    return
                if path.startswith(api) or path == api.rstrip("/"):
                    self._api(kind, name, repository, path.removeprefix(api), body)
                    return
        # Without a token, the hub gives the same answer for unknown and private repositories.
        status = 404 if self._knows_token() else 401
        self._json({"error": "no repository"}, status=status, code="RepoNotFound")

    def _knows_token(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {self.hub.token}"

    def _api(self, kind: str, name: str, repository: Repository, rest: str, body: bytes) -> None:
        verb, _, rest = rest.partition("/")
        if verb == "auth-check":
            if repository.gated and not self._knows_token():
                self._gated()
            else:
                self._json({})
            return
        if verb == "" or rest == "":
            rest = "main"
        revision, _, folder = rest.partition("/")
        if revision not in ("main", repository.commit):
            self._json({"error": "no revision"}, status=404, code="RevisionNotFound")
        elif verb in ("", "revision"):
            self._json(_info(name, repository, blobs="blobs" in parse_qs(urlsplit(self.path).query)))
        elif verb == "tree":
            recursive = parse_qs(urlsplit(self.path).query).get("recursive", [""])[0].lower() == "true"
            self._json(_tree(repository, folder, recursive=recursive))
        elif verb == "paths-info":
            asked = parse_qs(body.decode()) if not body.startswith(b"{") else json.loads(body)
            paths = [*asked.get("paths", ())]
            self._json([entry for path in paths for entry in _entries(repository, path)])
        else:
            self._json({"error": "unknown"}, status=404)

    def _file(self, repository: Repository, rest: str) -> None:
        revision, _, path = rest.partition("/")
        if repository.gated and not self._knows_token():
            self._gated()
        elif revision not in ("main", repository.commit):
            self._json({"error": "no revision"}, status=404, code="RevisionNotFound")
        elif path not in repository.files:
            self._json({"error": "no file"}, status=404, code="EntryNotFound", commit=repository.commit)
        else:
            self._send(repository, path)

    def _send(self, repository: Repository, path: str) -> None:
        content = repository.files[path]
        first, last = 0, len(content) - 1
        asked = self.headers.get("Range")
        if asked:
            begin, _, end = asked.removeprefix("bytes=").partition("-")
            first, last = int(begin), min(int(end) if end else last, last)
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(last - first + 1))
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
        etag = hashlib.sha256(content).hexdigest() if path in repository.lfs else git_id(content)
        self.send_header("ETag", f'"{etag}"')
        self.send_header("X-Repo-Commit", repository.commit)
        self.end_headers()
        part = content[first : last + 1]
        if self.command == "HEAD":
            return
        if self.hub.break_after is not None and len(part) > self.hub.break_after:
            part, self.hub.break_after = part[: self.hub.break_after], None
            self.close_connection = True
        self.wfile.write(part)

    def _gated(self) -> None:
        self._json({"error": "gated"}, status=401, code="GatedRepo")

    def _json(self, value: Any, *, status: int = 200, code: str = "", commit: str = "") -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if code:
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", value["error"])
        if commit:
            self.send_header("X-Repo-Commit", commit)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def _info(name: str, repository: Repository, *, blobs: bool) -> dict[str, Any]:
    siblings: list[dict[str, Any]] = []
    for path, content in repository.files.items():
        sibling: dict[str, Any] = {"rfilename": path}
        if blobs:
            sibling |= {"size": len(content), "blobId": git_id(content)}
            if path in repository.lfs:
                sha256 = hashlib.sha256(content).hexdigest()
                sibling["lfs"] = {"size": len(content), "sha256": sha256, "pointerSize": 134}
        siblings.append(sibling)
    gated = "manual" if repository.gated else False
    return {"id": name, "sha": repository.commit, "siblings": siblings, "gated": gated, "private": False}


def _tree(repository: Repository, folder: str, *, recursive: bool) -> list[dict[str, Any]]:
    prefix = f"{folder}/" if folder else ""
    inside = [path.removeprefix(prefix) for path in repository.files if path.startswith(prefix)]
    paths = dict.fromkeys(path if recursive else path.partition("/")[0] for path in inside)
    return [entry for path in paths for entry in _entries(repository, prefix + path)]


def _entries(repository: Repository, path: str) -> list[dict[str, Any]]:
    content = repository.files.get(path)
    if content is not None:
        return [{"type": "file", "path": path, "size": len(content), "oid": git_id(content)}]
    if any(name.startswith(f"{path}/") for name in repository.files):
        return [{"type": "directory", "path": path, "oid": "0" * 40}]
    return []
