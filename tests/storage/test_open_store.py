"""URLs, options and keys: what is refused before any byte moves."""

import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.storage import LocalStore, Prober, S3Options, open_store
from pipeline.storage.base import INCOMING, check_key, is_key
from pipeline.storage.s3 import S3Store

OPTIONS = S3Options(endpoint_url="http://127.0.0.1:9", access_key="AKID", secret_key="hush-hush")


def test_a_file_url_opens_a_directory(tmp_path: Path) -> None:
    store = open_store(f"file://{tmp_path}/with%20space")
    assert isinstance(store, LocalStore)
    assert store.root == tmp_path / "with space"
    assert not store.root.exists()


def test_an_s3_url_opens_a_bucket_below_a_prefix() -> None:
    store = open_store("s3://bucket/some/prefix/", OPTIONS)
    assert isinstance(store, S3Store)
    assert (store.bucket, store.prefix) == ("bucket", "some/prefix/")
    assert repr(store) == "S3Store('s3://bucket/some/prefix/', endpoint='http://127.0.0.1:9')"
    whole = open_store("s3://bucket", OPTIONS)
    assert isinstance(whole, S3Store)
    assert whole.prefix == ""


@pytest.mark.parametrize(
    "url",
    [
        *(
            "",
            "bucket/prefix",
            "/abs/path",
            "http://host/x",
            "file://host/x",
            "file:relative",
            "s3://",
            "s3:///x",
        ),
        *("s3://key:secret@bucket/x", "s3://bucket/x?region=eu", "s3://bucket/../x", "file:///x#y"),
    ],
)
def test_other_urls_are_refused_with_the_allowed_forms(url: str) -> None:
    with pytest.raises(ValueError, match=r"s3://bucket/prefix|storage key"):
        open_store(url, OPTIONS)


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"access_key": "a"}, "secret_key"),
        ({"secret_key": "a"}, "access_key"),
        ({"kms_key_id": "k"}, "aws:kms"),
        ({"sse": "AES256", "kms_key_id": "k"}, "aws:kms"),
        ({"sse": "rot13"}, "AES256"),
        ({"endpoint_url": "http://user:pass@host"}, "endpoint_url"),
    ],
)
def test_options_that_contradict_each_other_are_refused(wrong: dict[str, str], field: str) -> None:
    with pytest.raises(ValueError, match=field) as caught:
        S3Options(**wrong)  # type: ignore[arg-type]
    assert "user:pass" not in str(caught.value)


def test_secrets_are_not_shown() -> None:
    store = open_store("s3://bucket/prefix", OPTIONS)
    for shown in (repr(OPTIONS), str(OPTIONS), repr(store), str(store), repr(vars(store))):
        assert "hush-hush" not in shown


def test_a_store_travels_between_processes(tmp_path: Path) -> None:
    for url in (f"file://{tmp_path}", "s3://bucket/some/prefix", "s3://bucket"):
        store = open_store(url, OPTIONS)
        assert repr(pickle.loads(pickle.dumps(store))) == repr(store)  # noqa: S301 - our own bytes
        assert isinstance(store, Prober)


@given(key=st.text(st.sampled_from("ab./\\ ~\n\x00ä-"), max_size=12))
def test_no_key_that_is_accepted_leaves_the_root(key: str) -> None:
    if not is_key(key):
        with pytest.raises(ValueError, match="storage key"):
            check_key(key)
        return
    root = Path("/store/root")
    path = (root / check_key(key)).resolve()
    assert path.is_relative_to(root)
    assert str(path.relative_to(root)) == key
    assert path.relative_to(root).parts[0] != INCOMING
