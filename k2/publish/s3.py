"""Publish into a bucket of S3 or of anything that speaks its protocol.

Credentials and endpoint come from the environment or a block (`AWS_ACCESS_KEY_ID` ..., `AWS_ENDPOINT_URL`). An object is the
same as ours when its size, our SHA-256 in its metadata and its ETag (MD5, or MD5 of the parts' MD5s) agree; where a
store gives another kind of ETag the object is read back and hashed. `If-None-Match: *` is the one conditional write
that several real servers honour, so it alone commits.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from k2.publish.credentials import lent_aws_keys, setting
from k2.publish.deliver import Delivered, deliver, inspect
from k2.publish.failure import PublishFailed, PublishRefused
from k2.publish.multipart import Fingerprint, Place, fingerprint, send_file
from k2.publish.parcel import Item, Parcel
from k2.publish.target import S3Target
from k2.run.receipt import RECEIPT

PART_BYTES = 32 << 20  # five of them are in memory
_BLOCK_BYTES = 1 << 20
_CREDENTIALS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_PROFILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
)
_ABSENT = ("404", "NoSuchKey")
_CONTENT_TYPES = {  # what a browser shows instead of saving it, where a bucket is served as a site
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".md": "text/markdown; charset=utf-8",
    ".svg": "image/svg+xml",
}
_FIXES = {  # error codes that a retry does not mend
    "SignatureDoesNotMatch": "the secret key is wrong: correct AWS_SECRET_ACCESS_KEY",
    "InvalidAccessKeyId": "the access key is unknown there: correct AWS_ACCESS_KEY_ID, or AWS_ENDPOINT_URL",
    "AccessDenied": "the credentials may not do this: they need to list the bucket and to read and write its objects",
    "403": "the credentials are wrong or may not do this: they need to list the bucket and to read and write its objects",
    "NoSuchBucket": "the bucket does not exist there: create it, or correct the target or AWS_ENDPOINT_URL",
    "ExpiredToken": "the session has expired: renew AWS_SESSION_TOKEN and its keys",
    "RequestTimeTooSkewed": "this machine's clock is wrong: set it",
    "NoCredentialsError": "there are no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "PartialCredentialsError": "half of the credentials is missing: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
}


class S3Store:
    """Objects of one bucket below one prefix."""

    def __init__(self, client: Any, target: S3Target, part_bytes: int = PART_BYTES, checksum: str | None = None) -> None:
        self.client, self.target, self.part_bytes = client, target, part_bytes
        self.checksum = {"ChecksumAlgorithm": checksum} if checksum else {}
        self._sent: dict[str, Fingerprint] = {}

    def read(self, path: str) -> bytes | None:
        from botocore.exceptions import ClientError

        try:
            content: bytes = self.client.get_object(**self._at(path))["Body"].read()
            return content
        except ClientError as error:
            _raise_unless_absent(error)
            return None

    def differs(self, path: str, item: Item) -> str | None:
        head = self._head(path)
        if head is None:
            return "is missing"
        if head["ContentLength"] != item.bytes:
            return f"has {head['ContentLength']} bytes instead of {item.bytes}"
        if {key.lower(): value for key, value in head["Metadata"].items()}.get("sha256") != item.sha256:
            return "carries another SHA-256"
        ours = self._sent.pop(path, None) or fingerprint(item.source, self.part_bytes)  # what was just sent was hashed on its way
        if ours.sha256 != item.sha256:
            raise PublishRefused(f"{item.source} changed while it was being published; make the output again")
        same = head.get("ETag", "").strip('"') == ours.etag or self._hash_back(path) == item.sha256
        return None if same else "has other content"

    def send(self, path: str, item: Item) -> None:
        shown_as = _CONTENT_TYPES.get(item.source.suffix)
        # a page and its data change under one name: a browser asks whether they did
        shown = {"ContentType": shown_as, "CacheControl": "no-cache"} if shown_as else {}
        about = {"Metadata": {"sha256": item.sha256}} | self.checksum | shown
        place = Place(self.client, self.target.bucket, self._at(path)["Key"], about)
        self._sent[path] = send_file(place, item.source, self.part_bytes)

    def fetch(self, path: str, to: Path) -> None:
        """Write the object's content to a file."""
        with to.open("wb") as file:
            for block in self.client.get_object(**self._at(path))["Body"].iter_chunks(_BLOCK_BYTES):
                file.write(block)

    def create(self, path: str, content: bytes) -> bool:
        from botocore.exceptions import ClientError

        try:
            self.client.put_object(**self._at(path), Body=content, IfNoneMatch="*", ContentType="application/json")
        except ClientError as error:
            if error.response["Error"]["Code"] not in ("PreconditionFailed", "412"):
                raise
            return False
        return True

    def remove(self, path: str) -> None:
        self.client.delete_object(**self._at(path))

    def _at(self, path: str) -> dict[str, str]:
        return {"Bucket": self.target.bucket, "Key": f"{self.target.prefix}/{path}".lstrip("/")}

    def _head(self, path: str) -> dict[str, Any] | None:
        from botocore.exceptions import ClientError

        try:
            head: dict[str, Any] = self.client.head_object(**self._at(path))
            return head
        except ClientError as error:
            _raise_unless_absent(error)
            return None

    def _hash_back(self, path: str) -> str:
        digest = hashlib.sha256()
        for block in self.client.get_object(**self._at(path))["Body"].iter_chunks(_BLOCK_BYTES):
            digest.update(block)
        return digest.hexdigest()


class S3Shelf:
    """Parcels below a prefix."""

    def __init__(self, store: S3Store) -> None:
        self.store = store

    def names(self) -> list[str]:
        prefix = f"{self.store.target.prefix}/".lstrip("/")
        pages = self.store.client.get_paginator("list_objects_v2").paginate(Bucket=self.store.target.bucket, Prefix=prefix, Delimiter="/")
        return sorted(found["Prefix"].removeprefix(prefix).rstrip("/") for page in pages for found in page.get("CommonPrefixes", []))

    def read(self, name: str) -> bytes | None:
        return self.store.read(f"{name}/{RECEIPT}")

    def fetch(self, name: str, path: str, to: Path) -> None:
        self.store.fetch(f"{name}/{path}", to)


def publish_to_s3(target: S3Target, parcel: Parcel) -> Delivered:
    """Deliver the parcel below the target's prefix. The bucket must exist: its region and policy are its owner's."""
    with opened(target, _failing(target, parcel)) as store:
        return deliver(store, parcel, str(target))


def inspect_s3(target: S3Target, parcel: Parcel) -> list[str]:
    """What is wrong with the parcel there."""
    with opened(target, _failing(target, parcel)) as store:
        return inspect(store, parcel, str(target))


def _failing(target: S3Target, parcel: Parcel) -> str:
    return f"{parcel.name} could not be published to {target}"


@contextmanager
def opened(target: S3Target, failing: str, part_bytes: int = PART_BYTES) -> Iterator[S3Store]:
    """The target's store; what the client throws comes out as what it means; `failing` says what cannot be done then."""
    from botocore.exceptions import BotoCoreError, ClientError
    from urllib3.exceptions import HTTPError

    try:
        yield _open(target, part_bytes)
    except (
        ClientError,
        BotoCoreError,
        HTTPError,
        OSError,
    ) as error:  # HTTPError: the connection broke in the body of an error, which botocore lets out
        _explain(error, failing)


def _open(target: S3Target, part_bytes: int) -> S3Store:
    endpoint = setting("AWS_ENDPOINT_URL_S3") or setting("AWS_ENDPOINT_URL")
    if (lacking := lacking_credentials(target)) is not None:
        raise PublishRefused(lacking)
    # CRC64NVME costs a tenth of a second a GB and AWS checks it; other stores differ in what they take, and the ETag is compared anyway
    return S3Store(client_of(endpoint), target, part_bytes, checksum=None if endpoint else "CRC64NVME")


def lacking_credentials(target: S3Target) -> str | None:
    """What the target needs that neither the environment nor a loan has; None where it has."""
    if setting("AWS_ACCESS_KEY_ID") and not setting("AWS_SECRET_ACCESS_KEY"):
        return f"{target}: AWS_ACCESS_KEY_ID is set without AWS_SECRET_ACCESS_KEY"
    if any(setting(name) for name in _CREDENTIALS):
        return None
    return f"{target} needs credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or place.credentials"


def client_of(endpoint: str | None) -> Any:
    """A client for the endpoint (None: AWS itself), with the credentials that were lent or that the environment has."""
    import boto3
    from botocore.config import Config

    needed = "when_required" if endpoint else "when_supported"
    config = Config(
        signature_version="s3v4",
        s3={"addressing_style": "path" if endpoint else "auto"},
        request_checksum_calculation=needed,
        response_checksum_validation=needed,
        retries={"mode": "standard", "total_max_attempts": int(setting("AWS_MAX_ATTEMPTS") or "5")},
        connect_timeout=10,
        read_timeout=60,
    )
    region = setting("AWS_REGION") or setting("AWS_DEFAULT_REGION") or "us-east-1"
    return boto3.session.Session(**lent_aws_keys()).client("s3", endpoint_url=endpoint, region_name=region, config=config)


def _raise_unless_absent(error: Any) -> None:
    """An object that is not there is an answer; anything else, a bucket that is not there too, is an error."""
    if error.response["Error"]["Code"] not in _ABSENT:
        raise error


def _explain(error: Exception, failing: str) -> NoReturn:
    """Raise what the error means to the user. The original is left out: a client's error may quote a signed URL."""
    said = f"{error.__class__.__name__}: {error}"
    for code, fix in _FIXES.items():
        if f"({code})" in said or said.startswith(code):
            raise PublishRefused(f"{failing}: {fix} ({said})") from None
    raise PublishFailed(f"{failing} ({said}); nothing is claimed of it, and trying again goes on where it broke") from None
