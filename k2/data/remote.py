"""Sources on `s3://` and `hf://`: the one module of data that talks to a store.

Enters an address pattern; leaves `SourceFile`s and ranges of bytes. Credentials and endpoints come from the environment
(`AWS_ACCESS_KEY_ID` ..., `AWS_ENDPOINT_URL`, `HF_TOKEN`, `HF_ENDPOINT`), never from a recipe, and which addresses a recipe
may read is the place's to say. What a retry may mend is `SourceUnavailable`; what it may not is a `DataError` with its fix.
"""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from ipaddress import ip_address
from typing import Any, TypeVar
from urllib.parse import urlsplit

from k2.data.document import DataError
from k2.data.store import SourceFile, SourceUnavailable, Store

_BLOCK_BYTES = 8 << 20  # 50 ms of latency a request are then a tenth of the time that the text takes to encode
_ATTEMPTS = 3  # of a range whose body broke off; each request is tried anew by the client besides
_CREDENTIALS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_PROFILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
)
_S3_FIXES = {
    "NoSuchBucket": "there is no such bucket: correct the pattern, or AWS_ENDPOINT_URL",
    "NoSuchKey": "the object is gone: put it back, or begin a new build",
    "404": "the object is gone: put it back, or begin a new build",
    "SignatureDoesNotMatch": "the secret key is wrong: correct AWS_SECRET_ACCESS_KEY",
    "InvalidAccessKeyId": "the access key is unknown there: correct AWS_ACCESS_KEY_ID, or AWS_ENDPOINT_URL",
    "AccessDenied": "these credentials may not list and read it: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY to some that may",
    "403": "these credentials may not list and read it: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY to some that may",
    "ExpiredToken": "the session has expired: renew AWS_SESSION_TOKEN and its keys",
    "RequestTimeTooSkewed": "this machine's clock is wrong: set it",
}
_PUBLIC_HUB = "https://huggingface.co"
T = TypeVar("T")


def open_remote(address: str) -> Store:
    """The store of the address; one client a process, since connections do not survive a fork."""
    scheme = address.partition("://")[0]
    if scheme not in _STORES:
        raise DataError(
            f"source.pattern = {address!r} has the unknown scheme {scheme!r}: write s3://bucket/..., hf://datasets/... or a path"
        )
    return _opened(scheme, os.getpid())


@cache
def _opened(scheme: str, process: int) -> Store:
    return _STORES[scheme]()


class S3Store:
    """Objects of S3 or of anything that speaks its protocol, read in ranges. Without credentials: public buckets."""

    block_bytes = _BLOCK_BYTES

    def __init__(self) -> None:
        self._client = _s3_client()

    def list(self, pattern: str) -> list[SourceFile]:
        bucket, key = _bucket_and_key(pattern)
        wanted = glob_pattern(key)
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=re.split(r"[*?]", key, maxsplit=1)[0])
        with _s3_explained(pattern):
            objects = [entry for page in pages for entry in page.get("Contents", ()) if wanted.fullmatch(entry["Key"])]
        files = [
            _object(f"s3://{bucket}/{entry['Key']}", entry["Size"], entry["ETag"]) for entry in objects if not entry["Key"].endswith("/")
        ]
        return _some(sorted(files, key=lambda file: file.name), pattern)

    def read(self, file: SourceFile, begin: int, count: int) -> bytes:
        bucket, key = _bucket_and_key(file.name)
        span = f"bytes={begin}-{min(begin + count, file.bytes) - 1}"

        def ranged() -> bytes:
            content: bytes = self._client.get_object(Bucket=bucket, Key=key, Range=span)["Body"].read()
            return content

        with _s3_explained(file.name):
            return _again(ranged, _s3_broken())

    def stat(self, name: str) -> SourceFile:
        bucket, key = _bucket_and_key(name)
        with _s3_explained(name):
            head = self._client.head_object(Bucket=bucket, Key=key)
        return _object(name, head["ContentLength"], head["ETag"])


class HubStore:
    """Files of repositories on the Hugging Face Hub: `hf://datasets/owner/name[@revision]/path`."""

    block_bytes = _BLOCK_BYTES

    def __init__(self) -> None:
        self._files = _hub_files()

    def list(self, pattern: str) -> list[SourceFile]:
        with _hub_explained(pattern):
            found = self._files.glob(pattern.removeprefix("hf://"), detail=True)
        return _some([_hub_file(about) for _, about in sorted(found.items()) if about["type"] == "file"], pattern)

    def read(self, file: SourceFile, begin: int, count: int) -> bytes:
        def ranged() -> bytes:
            with self._files.open(file.name.removeprefix("hf://"), "rb", block_size=_BLOCK_BYTES, cache_type="none") as opened:
                opened.seek(begin)
                content: bytes = opened.read(count)
                return content

        with _hub_explained(file.name):
            return _again(ranged, _hub_broken())

    def stat(self, name: str) -> SourceFile:
        with _hub_explained(name):
            return _hub_file(self._files.info(name.removeprefix("hf://")))


_STORES: dict[str, Callable[[], Store]] = {"s3": S3Store, "hf": HubStore}


def glob_pattern(glob: str) -> re.Pattern[str]:
    """The glob as a regular expression: `*` and `?` stay within a folder, `**/` is any folders or none."""
    parts = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return re.compile("".join(parts.get(part) or re.escape(part) for part in re.split(r"(\*\*/|\*\*|\*|\?)", glob)))


def _some(files: list[SourceFile], pattern: str) -> list[SourceFile]:
    if not files:
        raise DataError(f"source.pattern = {pattern!r} names no file there: correct the pattern, or put the files there")
    return files


def _bucket_and_key(address: str) -> tuple[str, str]:
    bucket, _, key = address.removeprefix("s3://").partition("/")
    if not bucket or not key or re.search(r"[*?]", bucket):
        raise DataError(f"source.pattern = {address!r} must name one bucket and a key: s3://bucket/folder/*.jsonl.zst")
    return bucket, key


def _object(name: str, size: int, etag: str) -> SourceFile:
    return SourceFile(name, size, etag.strip('"'))


def _hub_file(about: dict[str, Any]) -> SourceFile:
    return SourceFile(f"hf://{about['name']}", about["size"], (about.get("lfs") or {}).get("sha256") or about["blob_id"])


def _s3_client() -> Any:
    import boto3
    from botocore import UNSIGNED
    from botocore.config import Config

    endpoint = _endpoint("AWS_ENDPOINT_URL_S3") or _endpoint("AWS_ENDPOINT_URL")
    signed = any(os.environ.get(name) for name in _CREDENTIALS)
    config = Config(
        signature_version="s3v4" if signed else UNSIGNED,
        s3={"addressing_style": "path" if endpoint else "auto"},
        response_checksum_validation="when_required",  # a checksum is of the whole object, and we read ranges
        retries={"mode": "standard", "total_max_attempts": int(os.environ.get("AWS_MAX_ATTEMPTS", "5"))},
        connect_timeout=10,
        read_timeout=60,
    )
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    return boto3.session.Session().client("s3", endpoint_url=endpoint, region_name=region, config=config)


def _hub_files() -> Any:
    endpoint = (_endpoint("HF_ENDPOINT") or _PUBLIC_HUB).rstrip("/")
    if endpoint != _PUBLIC_HUB:
        os.environ["HF_HUB_DISABLE_XET"] = "1"  # the Xet protocol exists on the public Hub alone
    from huggingface_hub import HfFileSystem, constants

    if endpoint != _PUBLIC_HUB:
        constants.HF_HUB_DISABLE_XET = True  # someone may have imported the library before
    return HfFileSystem(endpoint=endpoint, token=os.environ.get("HF_TOKEN") or False, skip_instance_cache=True)


def _endpoint(variable: str) -> str | None:
    """The endpoint in the environment, if there is one. Link-local addresses are where clouds hand out a machine's own secrets."""
    value = os.environ.get(variable)
    if not value:
        return None
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname or _is_link_local(parts.hostname):
        raise DataError(
            f"{variable} is no endpoint of a store, it leads to {parts.hostname or 'no host'}: write http(s)://host[:port] of one"
        )
    return value


def _is_link_local(host: str) -> bool:
    try:
        return ip_address(host).is_link_local
    except ValueError:
        return False


def _again(read: Callable[[], T], broken: tuple[type[Exception], ...]) -> T:
    """What `read` gives, tried anew when the answer broke off in its middle."""
    for _ in range(_ATTEMPTS - 1):
        try:
            return read()
        except broken:
            continue
    return read()


def _s3_broken() -> tuple[type[Exception], ...]:
    from botocore.exceptions import IncompleteReadError, ReadTimeoutError, ResponseStreamingError

    return IncompleteReadError, ReadTimeoutError, ResponseStreamingError


def _hub_broken() -> tuple[type[Exception], ...]:
    from huggingface_hub.errors import HfHubHTTPError

    transport: Any = HfHubHTTPError.__bases__[0]  # the error of the HTTP client in use, whose name changed between versions
    return (transport,)


@contextmanager
def _s3_explained(address: str) -> Iterator[None]:
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError

    try:
        yield
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code in _S3_FIXES:
            raise DataError(f"{address} cannot be read: {_S3_FIXES[code]} ({code})") from None
        raise SourceUnavailable(f"{address} could not be read now ({code}); nothing was dropped, try again") from None
    except (NoCredentialsError, PartialCredentialsError):
        raise DataError(f"{address} cannot be read: half of the credentials is missing: set AWS_SECRET_ACCESS_KEY too") from None
    except BotoCoreError as error:
        raise SourceUnavailable(f"{address} could not be read now ({error.__class__.__name__}); nothing was dropped, try again") from None


@contextmanager
def _hub_explained(address: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise DataError(
            f"{address} does not exist, or may not be seen by this token: correct it, or set HF_TOKEN to one that may read it"
        ) from None
    except _hub_broken() as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403):
            raise DataError(f"{address} cannot be read: set HF_TOKEN to a token that may read it ({status})") from None
        raise SourceUnavailable(f"{address} could not be read now ({error.__class__.__name__}); nothing was dropped, try again") from None
