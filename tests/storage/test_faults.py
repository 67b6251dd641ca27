"""S3 over a network that fails: continued, or told apart and named."""

import random
import time
from collections.abc import Callable, Iterator

import boto3
import httpx
import pytest
from pydantic import SecretStr

from pipeline.errors import CorruptObject, StorageError, StorageUnavailable
from pipeline.storage import Presigner, S3Options, open_store, resume
from pipeline.storage import s3 as s3_module
from pipeline.storage.parts import PART_BYTES
from pipeline.storage.s3 import S3Store
from tests.ports import HOST, free_ports
from tests.servers import S3Server
from tests.storage.conftest import BUCKET, s3_place
from tests.storage.faulty import Fault, Network, Request, faulty_network

MIB = 1024 * 1024
DATA = random.Random(2).randbytes(10 * MIB)


@pytest.fixture
def network(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Network]:
    monkeypatch.setattr(resume, "BACKOFF_SECONDS", 0.001)
    monkeypatch.setattr(s3_module, "REQUEST_ATTEMPTS", 2)
    with faulty_network(s3_server) as network:
        yield network


@pytest.fixture
def store(network: Network) -> S3Store:
    return opened(s3_place(network.server).url, network.server.options)


def opened(url: str, options: S3Options) -> S3Store:
    store = open_store(url, options)
    assert isinstance(store, S3Store)
    return store


def only(method: str, faults: list[Fault]) -> Callable[[Request], Fault | None]:
    """These faults for the next requests of a method, then none."""
    return lambda request: faults.pop(0) if request.method == method and faults else None


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize(("start", "length"), [(0, None), (1000, None), (1000, 9 * MIB)])
def test_a_dropped_connection_is_continued_at_the_received_byte(
    store: S3Store, network: Network, start: int, length: int | None, reset: bool
) -> None:
    store.put("data", [DATA])
    network.requests.clear()
    cuts = [Fault(cut_after=n, reset=reset) for n in (3 * MIB, 0, 2 * MIB + 17, 100)]
    network.plan = only("GET", cuts)

    end = len(DATA) if length is None else start + length
    assert b"".join(store.get("data", start=start, length=length)) == DATA[start:end]
    ranges = [request.headers.get("range") for request in network.requests if request.method == "GET"]
    positions = [int(found.removeprefix("bytes=").split("-")[0]) for found in ranges if found]
    assert len(ranges) == 5
    assert positions == sorted(positions)
    if not reset:  # which throws away what is under way
        assert positions[-1] >= 4 * MIB  # what arrived was not asked for again


def test_a_body_that_is_always_short_is_corrupt(store: S3Store, network: Network) -> None:
    store.put("data", [DATA])
    network.plan = lambda request: Fault(cut_after=0) if request.method == "GET" else None
    with pytest.raises(
        CorruptObject, match=rf"data in bucket s3://{BUCKET}.*5 times at byte 0 of {len(DATA)}"
    ):
        list(store.get("data"))


def test_a_body_that_is_always_broken_is_unavailable(store: S3Store, network: Network) -> None:
    store.put("data", [DATA])
    network.plan = lambda request: Fault(cut_after=0, reset=True) if request.method == "GET" else None
    with pytest.raises(StorageUnavailable, match=rf"data in bucket s3://{BUCKET}"):
        list(store.get("data"))


def test_an_object_that_is_replaced_while_it_is_read_is_not_mixed(store: S3Store, network: Network) -> None:
    store.put("data", [DATA])
    network.plan = only("GET", [Fault(cut_after=3 * MIB)])
    chunks = store.get("data")
    assert next(chunks) == DATA[:MIB]
    store.put("data", [DATA[::-1]])
    with pytest.raises(StorageUnavailable, match="replaced while it was read"):
        list(chunks)


@pytest.mark.parametrize("fault", [Fault(status=503), Fault(cut_after=-1), Fault(cut_after=-1, reset=True)])
def test_a_failed_request_is_repeated(store: S3Store, network: Network, fault: Fault) -> None:
    network.plan = only("PUT", [fault])
    store.put("data", [b"abc"])
    network.plan = only("GET", [fault])
    assert b"".join(store.get("data")) == b"abc"
    network.plan = only("HEAD", [fault])
    assert store.stat("data") is not None


@pytest.mark.parametrize("fault", [Fault(status=503), Fault(status=500), Fault(cut_after=-1)])
def test_a_server_that_keeps_failing_is_unavailable(store: S3Store, network: Network, fault: Fault) -> None:
    network.plan = lambda _: fault
    uses: list[Callable[[], object]] = [
        lambda: store.put("data", [b"abc"]),
        lambda: store.put("data", [DATA, DATA]),
        lambda: list(store.get("data")),
        lambda: store.stat("data"),
        lambda: list(store.list("")),
        lambda: store.delete("data"),
        lambda: store.probe(),
    ]
    for use in uses:
        with pytest.raises(StorageUnavailable) as caught:
            use()
        assert network.server.endpoint in caught.value.message
        assert BUCKET in caught.value.message
        assert network.server.secret_key not in caught.value.message


def test_a_part_that_fails_for_good_aborts_the_upload(store: S3Store, network: Network) -> None:
    network.plan = lambda request: Fault(status=503) if "partNumber=2" in request.path else None
    with pytest.raises(StorageUnavailable, match="part 2"):
        store.put("data", [DATA] * 4)
    aborts = [request for request in network.requests if request.method == "DELETE"]
    assert len(aborts) == 1
    assert "uploadId=" in aborts[0].path
    assert store.stat("data") is None


def test_a_completion_whose_answer_is_lost_is_a_success(store: S3Store, network: Network) -> None:
    def lose_first_completion(request: Request) -> Fault | None:
        posts = [seen for seen in network.requests if "uploadId=" in seen.path and seen.method == "POST"]
        return Fault(cut_after=-1) if request.method == "POST" and posts == [request] else None

    network.plan = lose_first_completion
    store.put("data", [DATA, DATA])
    assert b"".join(store.get("data")) == DATA + DATA


def test_encryption_is_asked_for_on_every_upload(store: S3Store, network: Network) -> None:
    asked = {
        "x-amz-server-side-encryption": "aws:kms",
        "x-amz-server-side-encryption-aws-kms-key-id": "key-7",
    }
    options = network.server.options.model_copy(update={"sse": "aws:kms", "kms_key_id": "key-7"})
    encrypted = opened(f"s3://{BUCKET}/encrypted", options)
    network.plan = lambda request: Fault(status=403) if request.method in ("PUT", "POST") else None
    for data in (DATA, DATA * 2):
        network.requests.clear()
        with pytest.raises(StorageError, match="access was refused"):
            encrypted.put("data", [data])
        assert asked.items() <= network.requests[-1].headers.items()


def test_uploads_carry_their_sha256_unless_told_not_to(store: S3Store, network: Network) -> None:
    plain = opened(f"s3://{BUCKET}/plain", network.server.options.model_copy(update={"checksums": False}))
    for target, expected in ((store, True), (plain, False)):
        network.requests.clear()
        target.put("small", [b"abc"])
        target.put("big", [DATA, DATA])
        assert b"".join(target.get("big")) == DATA + DATA
        puts = [request for request in network.requests if request.method == "PUT"]
        assert len(puts) == 3
        assert all(("x-amz-checksum-sha256" in request.headers) == expected for request in puts)


def test_an_unreachable_endpoint_fails_fast_and_keeps_the_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    endpoint = f"http://{HOST}:{free_ports(1)[0]}"
    options = S3Options(endpoint_url=endpoint, access_key="AKIDEXAMPLE", secret_key="wJalrXUtnFEMI")
    store = opened("s3://somewhere/prefix", options)
    with pytest.raises(StorageUnavailable) as caught:
        store.probe()
    assert sum(waited) < 8
    assert endpoint in caught.value.message
    assert "somewhere" in caught.value.message
    for text in (
        str(caught.value),
        repr(store),
        repr(options),
        repr(vars(store)),
        repr(caught.value.__cause__),
    ):
        assert "wJalrXUtnFEMI" not in text


@pytest.mark.parametrize("status", [400, 403, 502])
@pytest.mark.parametrize("body", [b"", b"<html><p>Welcome", b"<Error><Code>", b'{"hello": 1}'])
def test_an_answer_that_is_not_from_s3_is_still_an_error_of_ours(
    store: S3Store, network: Network, status: int, body: bytes
) -> None:
    network.plan = lambda _: Fault(status=status, body=body)
    uses: list[Callable[[], object]] = [store.probe, lambda: list(store.list(""))]
    uses += [lambda: store.stat("a"), lambda: list(store.get("a")), lambda: store.put("a", [b"x"])]
    for use in uses:
        with pytest.raises(StorageError, match=network.server.endpoint):
            use()


@pytest.mark.parametrize("fault", [Fault(status=200, body=b"<html>"), Fault(status=301), Fault(status=302)])
def test_an_endpoint_that_serves_pages_or_redirects_fails_its_probe(
    store: S3Store, network: Network, fault: Fault
) -> None:
    network.plan = lambda _: fault
    with pytest.raises(StorageError, match=network.server.endpoint):
        store.probe()


def test_refusals_are_told_apart(s3_server: S3Server) -> None:
    wrong = s3_server.options.model_copy(update={"secret_key": SecretStr("not-the-secret")})
    with pytest.raises(StorageError, match=r"access was refused.*SignatureDoesNotMatch") as caught:
        opened(f"s3://{BUCKET}/x", wrong).probe()
    assert not isinstance(caught.value, StorageUnavailable)
    assert "not-the-secret" not in str(caught.value)
    with pytest.raises(StorageError, match=r"s3://no-such-bucket/.*the bucket does not exist"):
        opened("s3://no-such-bucket", s3_server.options).probe()


def test_pages_of_a_list_are_put_together(s3_server: S3Server) -> None:
    place = s3_place(s3_server)
    store = opened(place.url, s3_server.options)
    keys = ["a-b", "a.b", "a/b", "a/b2/y", "a/b2-", *(f"d{i}/x{i}" for i in range(8))]
    for key in keys:
        store.put(key, [b"x"])

    def small_pages(params: dict[str, object], **_: object) -> None:
        params["MaxKeys"] = 2

    store._client.meta.events.register("before-parameter-build.s3.ListObjectsV2", small_pages)
    assert [info.key for info in store.list("")] == sorted(keys)
    assert [info.key for info in store.list("a/b")] == ["a/b", "a/b2-", "a/b2/y"]


def test_a_failed_put_leaves_no_upload_behind(seaweedfs_server: S3Server) -> None:
    seaweedfs_server.make_bucket("uploads")
    store = opened("s3://uploads", seaweedfs_server.options)

    def broken() -> Iterator[bytes]:
        yield bytes(2 * PART_BYTES)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.put("data", broken())
    client = boto3.client(
        "s3",
        endpoint_url=seaweedfs_server.endpoint,
        aws_access_key_id=seaweedfs_server.access_key,
        aws_secret_access_key=seaweedfs_server.secret_key,
    )
    assert "Uploads" not in client.list_multipart_uploads(Bucket="uploads")
    client.close()


def test_a_presigned_address_downloads_without_credentials(s3_server: S3Server) -> None:
    place = s3_place(s3_server)
    store = place.open()
    assert isinstance(store, Presigner)
    store.put("report.html", [b"<p>done</p>"])
    address = store.presign("report.html", seconds=60, filename='größe "1".html')
    answer = httpx.get(address)
    assert (answer.status_code, answer.content) == (200, b"<p>done</p>")
    assert answer.headers["content-disposition"] == (
        "attachment; filename=\"gr__e _1_.html\"; filename*=UTF-8''gr%C3%B6%C3%9Fe%20%221%22.html"
    )
    assert s3_server.secret_key not in address
    assert httpx.get(address.split("?")[0]).status_code in (400, 401, 403)
    for seconds in (0, 8 * 24 * 3600):
        with pytest.raises(ValueError, match="seconds must be"):
            store.presign("report.html", seconds=seconds, filename="x")
