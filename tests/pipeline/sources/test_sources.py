"""Files and buckets are pinned, and read against their pins."""

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import (
    InvalidSpec,
    SecateurError,
    SourceChanged,
    SourceNotAllowed,
    SourceNotFound,
    SourceUnreachable,
)
from pipeline.sources import SourceAccess, open_source
from pipeline.sources import file as file_source
from pipeline.sources import tags as source_tags
from pipeline.sources.pins import Pin, PinnedFile
from pipeline.storage import S3Options
from pipeline.storage.s3 import S3Store
from tests.ports import free_ports
from tests.servers import S3Server

DATA = bytes(range(256)) * 40


def everything(name: str) -> bool:
    return True


def content(uri: str, access: SourceAccess, file: PinnedFile) -> bytes:
    return b"".join(open_source(uri, access).read(file))


def sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    directory = tmp_path / "models"
    (directory / "tiny").mkdir(parents=True)
    (directory / "tiny" / "config.json").write_bytes(b"{}")
    (directory / "tiny" / "model.safetensors").write_bytes(DATA)
    (directory / "tiny" / "onnx").mkdir()
    (directory / "tiny" / "onnx" / "model.onnx").write_bytes(b"not wanted")
    return directory


class TestFile:
    def test_a_directory_is_pinned_by_content(self, root: Path) -> None:
        access = SourceAccess(allowed_roots=(root,))
        source = open_source(f"file:{root}/tiny", access)
        assert source.names() == ("config.json", "model.safetensors")
        pin = source.pin(everything)
        assert pin == Pin(
            source=f"file:{root}/tiny",
            files=(
                PinnedFile(path="config.json", size=2, tag=sha256(b"{}")),
                PinnedFile(path="model.safetensors", size=len(DATA), tag=sha256(DATA)),
            ),
        )
        assert content(pin.source, access, pin.files[1]) == DATA
        assert [file.path for file in source.pin("config.json".__eq__).files] == ["config.json"]

    def test_a_file_is_a_source_of_one(self, root: Path) -> None:
        access = SourceAccess(allowed_roots=(root,))
        uri = f"file:{root}/tiny/model.safetensors"
        pin = open_source(uri, access).pin(everything)
        assert [file.path for file in pin.files] == ["model.safetensors"]
        assert content(uri, access, pin.files[0]) == DATA

    def test_large_files_are_known_by_their_modification_time(
        self, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(file_source, "HASHED_BYTES", 1000)
        access = SourceAccess(allowed_roots=(root,))
        path = root / "tiny" / "model.safetensors"
        small, large = open_source(f"file:{root}/tiny", access).pin(everything).files
        assert small.tag == sha256(b"{}")
        assert large.tag == f"stat:{path.stat().st_mtime_ns}"
        assert content(f"file:{root}/tiny", access, large) == DATA
        os.utime(path, ns=(1, 1))
        with pytest.raises(SourceChanged, match="no longer what was accepted"):
            content(f"file:{root}/tiny", access, large)

    @pytest.mark.parametrize(
        ("change", "told"),
        [
            (lambda path: path.write_bytes(DATA[:-1]), "10239 bytes"),
            (lambda path: path.write_bytes(DATA[::-1]), "sha256:"),
            (lambda path: path.unlink(), "nothing"),
        ],
    )
    def test_changes_are_noticed(self, root: Path, change: Callable[[Path], object], told: str) -> None:
        access = SourceAccess(allowed_roots=(root,))
        uri = f"file:{root}/tiny"
        pinned = open_source(uri, access).pin(everything).files[1]
        change(root / "tiny" / "model.safetensors")
        with pytest.raises(SourceChanged, match=told) as caught:
            content(uri, access, pinned)
        assert not caught.value.retryable

    def test_growth_while_it_is_read_is_noticed(self, root: Path) -> None:
        access = SourceAccess(allowed_roots=(root,))
        source = open_source(f"file:{root}/tiny", access)
        pinned = source.pin(everything).files[1]
        with (root / "tiny" / "model.safetensors").open("ab") as file:
            chunks = source.read(pinned)
            next(chunks)
            file.write(b"more")
            file.flush()
            with pytest.raises(SourceChanged):
                list(chunks)

    def test_a_text_is_verified_before_its_first_chunk(
        self, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(file_source, "CHUNK_BYTES", 16)
        access = SourceAccess(allowed_roots=(root,))
        source = open_source(f"file:{root}/tiny/model.safetensors", access)
        pinned = source.pin(everything).files[0]
        assert b"".join(source.read(pinned)) == DATA
        (root / "tiny" / "model.safetensors").write_bytes(DATA[:-1] + b"x")
        with pytest.raises(SourceChanged):
            next(source.read(pinned))

    def test_nothing_outside_of_the_roots(self, root: Path, tmp_path: Path) -> None:
        (tmp_path / "secret.txt").write_text("secret")
        (root / "tiny" / "link.json").symlink_to(tmp_path / "secret.txt")
        (root / "sideways").symlink_to(tmp_path)
        access = SourceAccess(allowed_roots=(root,))
        refused = [
            f"file:{tmp_path}",
            f"file:{tmp_path}/secret.txt",
            f"file:{root}/sideways",
            "file:/nowhere",
        ]
        refused += [f"file:{root}x", f"file:{root}/sideways/secret.txt"]
        for uri in refused:
            with pytest.raises(SourceNotAllowed, match="SECATEUR_ALLOWED_ROOTS") as caught:
                open_source(uri, access).pin(everything)
            assert str(root) in caught.value.message
        with pytest.raises(SourceNotAllowed, match=r"link\.json"):
            open_source(f"file:{root}/tiny", access).pin(everything)
        with pytest.raises(SourceNotAllowed, match="are off"):
            open_source(f"file:{root}/tiny", SourceAccess()).names()

    def test_links_inside_of_the_roots_are_followed(self, root: Path, tmp_path: Path) -> None:
        alias = tmp_path / "alias"
        alias.symlink_to(root)
        (root / "tiny" / "link.json").symlink_to(root / "tiny" / "config.json")
        (root / "tiny" / "broken.json").symlink_to(root / "nothing")
        source = open_source(f"file:{root}/tiny", SourceAccess(allowed_roots=(alias,)))
        assert source.names() == ("config.json", "link.json", "model.safetensors")
        assert content(
            f"file:{root}/tiny", SourceAccess(allowed_roots=(alias,)), source.pin(everything).files[1]
        )

    def test_a_link_moved_outside_after_pinning_is_refused(self, root: Path, tmp_path: Path) -> None:
        access = SourceAccess(allowed_roots=(root,))
        source = open_source(f"file:{root}/tiny", access)
        pinned = source.pin(everything).files[1]
        (tmp_path / "same").write_bytes(DATA)
        (root / "tiny" / "model.safetensors").unlink()
        (root / "tiny" / "model.safetensors").symlink_to(tmp_path / "same")
        with pytest.raises(SourceNotAllowed):
            list(source.read(pinned))

    def test_pinned_names_stay_inside(self, root: Path) -> None:
        source = open_source(f"file:{root}/tiny", SourceAccess(allowed_roots=(root,)))
        for name in ("../tiny/config.json", "..", "", "onnx/model.onnx"):
            with pytest.raises(SourceNotAllowed):
                list(source.read(PinnedFile(path=name, size=2, tag=sha256(b"{}"))))

    def test_what_is_no_file(self, root: Path) -> None:
        access = SourceAccess(allowed_roots=(root,))
        with pytest.raises(SourceNotFound, match="does not exist"):
            open_source(f"file:{root}/nothing", access).names()
        os.mkfifo(root / "pipe.txt")
        with pytest.raises(SourceNotFound, match="is not a file"):
            open_source(f"file:{root}/pipe.txt", access).pin(everything)

    def test_uris_are_checked(self) -> None:
        for uri in ("models/tiny", "ftp://host/x", "file:relative", "hub:a/b/c", "s3:bucket"):
            with pytest.raises(InvalidSpec):
                open_source(uri, SourceAccess())


@pytest.fixture(scope="module")
def bucket(seaweedfs_server: S3Server) -> SourceAccess:
    seaweedfs_server.make_bucket("sources")
    store = S3Store("sources", "", seaweedfs_server.options)
    store.put("models/tiny/config.json", [b"{}"])
    store.put("models/tiny/model.safetensors", [DATA])
    store.put("models/tiny/onnx/model.onnx", [b"not wanted"])
    store.put("texts/wiki.txt", [b"some text"])
    return SourceAccess(s3=seaweedfs_server.options)


class TestS3:
    def test_a_prefix_and_an_object_are_pinned_by_etag(self, bucket: SourceAccess) -> None:
        source = open_source("s3://sources/models/tiny", bucket)
        assert source.names() == ("config.json", "model.safetensors")
        pin = source.pin(everything)
        etags = [f"etag:{hashlib.md5(data, usedforsecurity=False).hexdigest()}" for data in (b"{}", DATA)]
        assert pin.source == "s3://sources/models/tiny"
        assert [(file.path, file.size, file.tag) for file in pin.files] == [
            ("config.json", 2, etags[0]),
            ("model.safetensors", len(DATA), etags[1]),
        ]
        assert content(pin.source, bucket, pin.files[1]) == DATA
        text = open_source("s3://sources/texts/wiki.txt", bucket).pin(everything)
        assert [file.path for file in text.files] == ["wiki.txt"]
        assert content(text.source, bucket, text.files[0]) == b"some text"

    def test_a_whole_bucket(self, bucket: SourceAccess, seaweedfs_server: S3Server) -> None:
        seaweedfs_server.make_bucket("whole")
        S3Store("whole", "", seaweedfs_server.options).put("config.json", [b"{}"])
        pin = open_source("s3://whole", bucket).pin(everything)
        assert [file.path for file in pin.files] == ["config.json"]
        assert content(pin.source, bucket, pin.files[0]) == b"{}"

    def test_changes_are_noticed(self, bucket: SourceAccess) -> None:
        assert bucket.s3 is not None
        store = S3Store("sources", "", bucket.s3)
        store.put("changing/a.txt", [b"first"])
        pinned = open_source("s3://sources/changing/a.txt", bucket).pin(everything).files[0]
        for data, told in ((b"other", "etag:"), (b"longer text", "11 bytes")):
            store.put("changing/a.txt", [data])
            with pytest.raises(SourceChanged, match=told):
                content("s3://sources/changing/a.txt", bucket, pinned)
        store.delete("changing/a.txt")
        with pytest.raises(SourceChanged, match="nothing"):
            content("s3://sources/changing/a.txt", bucket, pinned)

    def test_refusals_tell_what_is_wrong(self, bucket: SourceAccess) -> None:
        assert bucket.s3 is not None
        with pytest.raises(SourceNotFound, match="nothing lies at s3://sources/nothing/here"):
            open_source("s3://sources/nothing/here", bucket).names()
        with pytest.raises(SourceNotFound, match="bucket"):
            open_source("s3://no-such-bucket/models", bucket).names()
        stranger = S3Options(endpoint_url=bucket.s3.endpoint_url, access_key="nobody", secret_key="x" * 16)
        with pytest.raises(SourceNotAllowed, match="credentials"):
            open_source("s3://sources/models/tiny", SourceAccess(s3=stranger)).names()
        with pytest.raises(InvalidSpec):
            open_source("s3://sources/mödels/tiny", bucket)

    def test_an_unreachable_server_is_told_quickly(self, monkeypatch: pytest.MonkeyPatch) -> None:
        waited: list[float] = []
        monkeypatch.setattr(time, "sleep", waited.append)
        options = S3Options(
            endpoint_url=f"http://127.0.0.1:{free_ports(1)[0]}", access_key="a", secret_key="b" * 16
        )
        with pytest.raises(SourceUnreachable, match="s3://sources/x cannot be reached"):
            open_source("s3://sources/x", SourceAccess(s3=options)).names()
        assert sum(waited) < 15


def test_tags_compare_as_the_stream_ends() -> None:
    file = PinnedFile(path="a", size=3, tag=sha256(b"abc"))
    assert list(source_tags.checked([b"a", b"bc"], file, what="a")) == [b"a", b"bc"]
    for chunks in ([b"ab"], [b"abcd"], [b"abd"]):
        with pytest.raises(SourceChanged):
            list(source_tags.checked(chunks, file, what="a"))


def test_errors_keep_their_field_across_processes() -> None:
    error = SourceNotFound("gone", "spec.model.source")
    rebuilt = error.__reduce__()
    assert isinstance(rebuilt[0](*rebuilt[1]), SecateurError)


def test_opening_a_file_source_loads_neither_boto3_nor_the_hub_client() -> None:
    code = (
        "import sys; from pipeline.sources import *; open_source('file:/x', SourceAccess()); "
        "print([m for m in ('boto3', 'huggingface_hub', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
