"""A store in an S3 bucket, on AWS or any compatible server.

Single requests are retried by botocore; a body that breaks off is continued after the last received byte
(resume.py). Uploads of unknown length are sent in parts with bounded memory (parts.py) and become visible as
a whole. A killed writer leaves an unfinished multipart upload, which no reader sees; give the bucket a
lifecycle rule that aborts these after some days.
"""

import base64
import contextlib
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import islice

from pipeline.errors import CorruptObject, ObjectNotFound, StorageError, StorageUnavailable
from pipeline.storage.base import Chunk, ObjectInfo, check_key, check_prefix, check_range, is_key
from pipeline.storage.options import S3Options
from pipeline.storage.parts import MAX_PARTS, cut, drained, send
from pipeline.storage.resume import Body, read_resuming
from pipeline.storage.s3_answers import attachment, bare, check_range_served
from pipeline.storage.s3_client import BaseClient, ClientError, chunks, code_of, connect, translated

REQUEST_ATTEMPTS = 5
UPLOAD_THREADS = 3  # the parts in flight, each in memory
MAX_PRESIGN_SECONDS = 7 * 24 * 3600

Receipt = dict[str, str | int]  # one entry of the list that completes a multipart upload


class S3Store:
    """Objects under `prefix/` in one bucket. Opening contacts no server; see `probe`."""

    def __init__(self, bucket: str, prefix: str = "", options: S3Options | None = None) -> None:
        self.bucket = bucket
        self.prefix = f"{check_key(prefix)}/" if prefix else ""
        self.options = options or S3Options()
        self.endpoint = self.options.endpoint_url or "AWS"
        self._client = self._connect(connect_seconds=10, read_seconds=60, attempts=REQUEST_ATTEMPTS)
        self.endpoint = str(self._client.meta.endpoint_url)

    def __repr__(self) -> str:
        return f"S3Store('s3://{self.bucket}/{self.prefix}', endpoint={self.endpoint!r})"

    def __reduce__(self) -> tuple[type["S3Store"], tuple[str, str, S3Options]]:
        return type(self), (self.bucket, self.prefix.rstrip("/"), self.options)

    def put(self, key: str, chunks: Iterable[Chunk]) -> None:
        """See Store. More than one part of 16 MiB becomes a multipart upload with three parts in flight."""
        check_key(key)
        parts = cut(chunks)
        first = list(islice(parts, 2))
        if len(first) == 2:
            self._put_parts(key, drained(first, parts))
        else:
            self._put_whole(key, first.pop() if first else b"")

    def get(self, key: str, *, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """See Store. A dropped connection is continued; StorageUnavailable when that fails repeatedly."""
        check_range(check_key(key), start=start, length=length)
        return self._read(key, start=start, length=length)

    def stat(self, key: str) -> ObjectInfo | None:
        """See Store. The version is the ETag."""
        check_key(key)
        try:
            with self._translated(f"looking up {key}"):
                found = self._client.head_object(Bucket=self.bucket, Key=self.prefix + key)
        except ObjectNotFound:
            return None
        return ObjectInfo(key=key, size=found["ContentLength"], version=bare(found.get("ETag")))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """See Store. Sorted here, all in memory: not every server lists in key order and each key once."""
        check_prefix(prefix)
        found: dict[str, ObjectInfo] = {}
        with self._translated(f"listing {prefix}*"):
            paginator = self._client.get_paginator("list_objects_v2")
            for page in paginator.paginate(Bucket=self.bucket, Prefix=self.prefix + prefix):
                for entry in page.get("Contents", ()):
                    key = entry["Key"].removeprefix(self.prefix)
                    if is_key(key) and key.startswith(prefix):
                        found[key] = ObjectInfo(key, entry["Size"], bare(entry.get("ETag")))
        return iter([found[key] for key in sorted(found)])

    def delete(self, key: str) -> None:
        """See Store."""
        check_key(key)
        with contextlib.suppress(ObjectNotFound), self._translated(f"deleting {key}"):
            self._client.delete_object(Bucket=self.bucket, Key=self.prefix + key)

    def presign(self, key: str, *, seconds: int, filename: str) -> str:
        """See Presigner. At most seven days; the browser saves the object as `filename`."""
        check_key(key)
        if not 1 <= seconds <= MAX_PRESIGN_SECONDS:
            raise ValueError(f"seconds must be 1 to {MAX_PRESIGN_SECONDS}, got {seconds}")
        wanted = {"Bucket": self.bucket, "Key": self.prefix + key}
        wanted["ResponseContentDisposition"] = attachment(filename)
        with self._translated(f"presigning {key}"):
            return str(self._client.generate_presigned_url("get_object", Params=wanted, ExpiresIn=seconds))

    def probe(self) -> None:
        """Raises within seconds: StorageUnavailable if nothing answers, StorageError if access is refused."""
        client = self._connect(connect_seconds=3, read_seconds=5, attempts=2)
        try:
            with self._translated("probing"):
                client.list_objects_v2(Bucket=self.bucket, Prefix=self.prefix, MaxKeys=1)
        finally:
            client.close()

    def _connect(self, *, connect_seconds: float, read_seconds: float, attempts: int) -> BaseClient:
        with self._translated("connecting"):
            return connect(
                self.options, connect_seconds=connect_seconds, read_seconds=read_seconds, attempts=attempts
            )

    def _put_whole(self, key: str, data: bytes) -> None:
        extra = self._checksum(data) | self._encryption()
        with self._translated(f"putting {key}"):
            self._client.put_object(Bucket=self.bucket, Key=self.prefix + key, Body=data, **extra)

    def _put_parts(self, key: str, parts: Iterator[bytes]) -> None:
        before = self.stat(key)
        target = {"Bucket": self.bucket, "Key": self.prefix + key}
        extra = self._encryption() | ({"ChecksumAlgorithm": "SHA256"} if self.options.checksums else {})
        with self._translated(f"putting {key}"):
            upload = self._client.create_multipart_upload(**target, **extra)["UploadId"]
        target["UploadId"] = upload
        try:
            receipts = list(
                send(parts, lambda n, part: self._put_part(target, n, part), threads=UPLOAD_THREADS)
            )
            self._complete(key, target, receipts, before=before)
        except BaseException as error:
            try:
                with self._translated(f"aborting {key}"):
                    self._client.abort_multipart_upload(**target)
            except StorageError as failure:
                error.add_note(f"multipart upload {upload} of {key} could not be aborted: {failure}")
            raise

    def _put_part(self, target: dict[str, str], number: int, part: bytes) -> Receipt:
        if number > MAX_PARTS:
            raise StorageError(f"{target['Key']} is larger than S3 takes in {MAX_PARTS} parts")
        checksum = self._checksum(part)
        with self._translated(f"putting {target['Key']}, part {number}"):
            etag = self._client.upload_part(**target, PartNumber=number, Body=part, **checksum)["ETag"]
        return {"PartNumber": number, "ETag": etag, **checksum}

    def _complete(
        self, key: str, target: dict[str, str], receipts: Sequence[Receipt], *, before: ObjectInfo | None
    ) -> None:
        with self._translated(f"putting {key}"):
            try:
                self._client.complete_multipart_upload(**target, MultipartUpload={"Parts": receipts})
            except ClientError as error:
                # If the first answer was lost, botocore's retry finds no upload, but the finished object.
                if code_of(error) != "NoSuchUpload" or self.stat(key) in (None, before):
                    raise

    def _checksum(self, data: bytes) -> dict[str, str]:
        if not self.options.checksums:
            return {}
        return {"ChecksumSHA256": base64.b64encode(hashlib.sha256(data).digest()).decode()}

    def _encryption(self) -> dict[str, str]:
        asked = {"ServerSideEncryption": self.options.sse, "SSEKMSKeyId": self.options.kms_key_id}
        return {name: value for name, value in asked.items() if value is not None}

    def _read(self, key: str, *, start: int, length: int | None) -> Iterator[bytes]:
        end = None if length is None else start + length
        if end == start or (end is None and start > 0):  # S3 has no ranges that may be empty
            size = self._expect(key, at_least=start)
            end = size if end is None else end
            if end == start:
                return
        yield from read_resuming(
            lambda position, previous: self._open(key, position, end=end, previous=previous),
            start=start,
            what=self._named(key),
        )

    def _open(self, key: str, position: int, *, end: int | None, previous: Body | None) -> Body:
        """Sends one GET from `position`, for the same version as `previous`, which broke off."""
        end = previous.end if previous is not None else end
        wanted = {"Bucket": self.bucket, "Key": self.prefix + key}
        if end is not None:
            wanted["Range"] = f"bytes={position}-{end - 1}"
        if previous is not None and previous.version:
            wanted["IfMatch"] = f'"{previous.version}"'
        with self._translated(f"getting {key}"):
            try:
                found = self._client.get_object(**wanted)
            except ClientError as error:
                if code_of(error) in ("InvalidRange", "416"):
                    self._expect(key, at_least=end or 0)
                raise
        version = bare(found.get("ETag"))
        try:
            if end is not None:
                check_range_served(found.get("ContentRange", ""), position, end=end, what=self._named(key))
            if previous is not None and previous.version != version:
                raise StorageUnavailable(f"{self._named(key)} was replaced while it was read")
        except StorageError:
            found["Body"].close()
            raise
        return Body(
            chunks=chunks(found["Body"]),
            end=found["ContentLength"] if end is None else end,
            version=version,
        )

    def _expect(self, key: str, *, at_least: int) -> int:
        """Returns an object's size; raises ObjectNotFound, or CorruptObject if it is below `at_least`."""
        found = self.stat(key)
        if found is None:
            raise ObjectNotFound(f"{self._named(key)}: it does not exist")
        if found.size < at_least:
            raise CorruptObject(
                f"{self._named(key)} is truncated: expected at least {at_least} bytes, got {found.size}"
            )
        return found.size

    def _named(self, doing: str) -> str:
        return f"{doing} in bucket s3://{self.bucket}/{self.prefix} at {self.endpoint}"

    def _translated(self, doing: str) -> AbstractContextManager[None]:
        return translated(self._named(doing))
