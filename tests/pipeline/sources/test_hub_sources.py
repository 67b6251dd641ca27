"""Hub repositories are pinned to commits and read against them, from the hub and from its cache."""

import hashlib
import socket
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest

from pipeline.errors import (
    InvalidSpec,
    SourceChanged,
    SourceNotAllowed,
    SourceNotFound,
    SourceUnreachable,
    StorageUnavailable,
)
from pipeline.sources import SourceAccess, open_source
from pipeline.sources.pins import Pin, PinnedFile
from tests.hub import COMMIT, Hub, Repository, cache_repository, git_id, serve_hub
from tests.ports import free_ports

DATA = bytes(range(256)) * 40


def everything(name: str) -> bool:
    return True


def content(uri: str, access: SourceAccess, file: PinnedFile) -> bytes:
    return b"".join(open_source(uri, access).read(file))


def sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


MODEL = Repository(
    {"config.json": b"{}", "model.safetensors": DATA, "onnx/model.onnx": b"not wanted"},
    frozenset(["model.safetensors"]),
)
FILES = (
    PinnedFile(path="config.json", size=2, tag=f"git:{git_id(b'{}')}"),
    PinnedFile(path="model.safetensors", size=len(DATA), tag=sha256(DATA)),
)


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serve_hub() as served:
        served.models["org/tiny"] = MODEL
        yield served


class TestHub:
    """Against a stand-in: the real hub cannot be reached from tests."""

    @pytest.fixture
    def access(self, hub: Hub, tmp_path: Path) -> SourceAccess:
        return SourceAccess(hub_endpoint=hub.endpoint, hub_cache_dir=tmp_path / "cache")

    def test_a_branch_is_pinned_to_its_commit(self, hub: Hub, access: SourceAccess) -> None:
        for uri in ("hub:org/tiny", "hub:org/tiny@main", f"hub:org/tiny@{COMMIT}"):
            source = open_source(uri, access)
            assert source.names() == ("config.json", "model.safetensors")
            assert source.pin(everything) == Pin(source=f"hub:org/tiny@{COMMIT}", files=FILES)
            assert b"".join(source.read(FILES[1])) == DATA
        assert content(f"hub:org/tiny@{COMMIT}", access, FILES[0]) == b"{}"
        assert {path for path in hub.paths() if "resolve" in path} == {
            f"/org/tiny/resolve/{COMMIT}/{name}" for name in ("config.json", "model.safetensors")
        }

    def test_broken_downloads_go_on_where_they_stopped(
        self, hub: Hub, access: SourceAccess, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("pipeline.sources.hub.CHUNK_BYTES", 1000)
        hub.break_after = 5000
        assert content(f"hub:org/tiny@{COMMIT}", access, FILES[1]) == DATA
        assert len(hub.paths()) == 2

    def test_other_content_is_noticed(self, hub: Hub, access: SourceAccess) -> None:
        hub.models["org/tiny"] = Repository({"config.json": b"[]", "model.safetensors": DATA[::-1]})
        for file in FILES:
            with pytest.raises(SourceChanged, match=file.tag[:4]):
                content(f"hub:org/tiny@{COMMIT}", access, file)

    def test_a_dataset_is_pinned_whole(self, hub: Hub, access: SourceAccess) -> None:
        hub.datasets["org/texts"] = Repository({"train.jsonl": b"{}"})
        source = open_source("hub:org/texts", access, repository="dataset")
        whole = PinnedFile(path="datasets/org/texts", size=0, tag=f"commit:{COMMIT}")
        assert source.pin(everything) == Pin(source=f"hub:org/texts@{COMMIT}", files=(whole,))

    def test_refusals_tell_what_to_do(self, hub: Hub, access: SourceAccess) -> None:
        with pytest.raises(SourceNotFound, match=r"knows no model 'org/other'.*SECATEUR_HUB_TOKEN"):
            open_source("hub:org/other", access).names()
        with pytest.raises(SourceNotFound, match="no revision 'v2'"):
            open_source("hub:org/tiny@v2", access).names()
        with pytest.raises(InvalidSpec, match="names no repository"):
            open_source("hub:org/..", access)
        hub.status = 401
        with pytest.raises(SourceNotAllowed, match="refused the token"):
            open_source("hub:org/tiny", access).names()
        hub.status = 500
        with pytest.raises(SourceUnreachable, match="HTTP 500"):
            open_source("hub:org/tiny", access).names()

    @pytest.mark.parametrize("repository", ["model", "dataset"])
    def test_gated_repositories_need_a_token(self, hub: Hub, access: SourceAccess, repository: str) -> None:
        gated = Repository(MODEL.files, MODEL.lfs, gated=True)
        hub.models["org/gated"] = hub.datasets["org/gated"] = gated
        with pytest.raises(SourceNotAllowed, match="gated; set SECATEUR_HUB_TOKEN"):
            open_source("hub:org/gated", access, repository=repository).names()  # type: ignore[arg-type]
        stranger = SourceAccess(hub_endpoint=hub.endpoint, hub_token="wrong")
        with pytest.raises(SourceNotAllowed, match="accept its terms"):
            open_source("hub:org/gated", stranger, repository=repository).names()  # type: ignore[arg-type]
        friend = SourceAccess(hub_endpoint=hub.endpoint, hub_token=hub.token)
        assert open_source("hub:org/gated", friend, repository=repository).pin(everything)  # type: ignore[arg-type]
        assert hub.token not in repr(friend)

    def test_a_download_that_fails_may_be_tried_again(
        self, hub: Hub, access: SourceAccess, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("pipeline.sources.hub.BUSY_RETRIES", 0)
        hub.status = 503
        with pytest.raises(StorageUnavailable) as caught:
            content(f"hub:org/tiny@{COMMIT}", access, FILES[1])
        assert caught.value.retryable


class TestHubCache:
    """Without network: repositories as the hub's client keeps them."""

    @pytest.fixture
    def cache(self, tmp_path: Path) -> Path:
        cache_repository(tmp_path / "cache", "org/tiny", MODEL)
        return tmp_path / "cache"

    def test_offline_the_cache_is_the_hub(self, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*args: object, **kwargs: object) -> None:
            raise AssertionError("asked the network")

        monkeypatch.setattr(socket.socket, "connect", refuse)
        access = SourceAccess(hub_cache_dir=cache, hub_offline=True)
        source = open_source("hub:org/tiny", access)
        pin = source.pin(everything)
        assert pin == Pin(source=f"hub:org/tiny@{COMMIT}", files=FILES)  # the same as from the hub
        assert [content(pin.source, access, file) for file in pin.files] == [b"{}", DATA]

    def test_copies_instead_of_links_are_hashed(self, cache: Path) -> None:
        path = cache / "models--org--tiny" / "snapshots" / COMMIT / "config.json"
        path.unlink()
        path.write_bytes(b"{}")
        pin = open_source("hub:org/tiny", SourceAccess(hub_cache_dir=cache, hub_offline=True)).pin(everything)
        assert pin.files[0].tag == sha256(b"{}")

    def test_a_damaged_cache_is_noticed(self, cache: Path) -> None:
        access = SourceAccess(hub_cache_dir=cache, hub_offline=True)
        pin = open_source("hub:org/tiny", access).pin(everything)
        (cache / "models--org--tiny" / "snapshots" / COMMIT / "model.safetensors").write_bytes(DATA[::-1])
        with pytest.raises(SourceChanged):
            content(pin.source, access, pin.files[1])

    def test_what_is_not_cached_is_told(self, cache: Path) -> None:
        access = SourceAccess(hub_cache_dir=cache, hub_offline=True)
        for uri in ("hub:org/other", "hub:org/tiny@v2", "hub:org/tiny@../../x", f"hub:org/tiny@{'0' * 40}"):
            with pytest.raises(SourceNotFound, match="hf download"):
                open_source(uri, access).names()
        with pytest.raises(SourceChanged):
            content(f"hub:org/tiny@{COMMIT}", access, PinnedFile(path="no.json", size=2, tag=FILES[0].tag))

    def test_without_network_a_cached_commit_serves_and_a_branch_does_not(self, cache: Path) -> None:
        access = SourceAccess(hub_cache_dir=cache, hub_endpoint=f"http://127.0.0.1:{free_ports(1)[0]}")
        assert open_source(f"hub:org/tiny@{COMMIT}", access).pin(everything).files == FILES
        with pytest.raises(SourceUnreachable, match="hub_offline"):
            open_source("hub:org/tiny", access).names()

    def test_cached_files_are_not_fetched_again(self, hub: Hub, cache: Path) -> None:
        access = SourceAccess(hub_cache_dir=cache, hub_endpoint=hub.endpoint)
        pin = open_source("hub:org/tiny", access).pin(everything)
        assert content(pin.source, access, pin.files[1]) == DATA
        assert [path for path in hub.paths() if "resolve" in path] == []

    def test_the_layout_is_the_client_s_own(self, cache: Path) -> None:
        found = huggingface_hub.try_to_load_from_cache("org/tiny", "model.safetensors", cache_dir=cache)
        assert isinstance(found, str)
        assert Path(found).read_bytes() == DATA
