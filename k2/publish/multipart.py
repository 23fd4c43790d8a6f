"""Sending one file to S3 in parts, so that a broken upload goes on where it broke.

Enters a file and its key; leaves the object, and the fingerprint of the bytes that were sent. boto3's own transfer
begins at byte 0 after its process died and leaves the parts it had sent behind; here they are listed first, and a
part that lies there with our size and MD5 is not sent again. One thread reads and hashes, a few send: a part is in
memory once, at most `NUM_SENDERS` + 1 of them at a time.
"""

import hashlib
import logging
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NUM_SENDERS = 4
MAX_PARTS = 10_000  # S3's limit
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fingerprint:
    """SHA-256 of a file, and the ETag that S3 gives it: the MD5, or the MD5 of the parts' MD5s and their number."""

    sha256: str
    etag: str


@dataclass(frozen=True)
class Place:
    """Where an object goes, and what goes with it (`Metadata`, `ChecksumAlgorithm` as boto3 takes them)."""

    client: Any
    bucket: str
    key: str
    extra: Mapping[str, Any]

    @property
    def at(self) -> dict[str, str]:
        return {"Bucket": self.bucket, "Key": self.key}


@dataclass(frozen=True)
class Part:
    """One part of a file, in memory. Numbers count from 1."""

    number: int
    content: bytes
    md5: str


def send_file(place: Place, source: Path, part_bytes: int) -> Fingerprint:
    """Send the file: whole up to `part_bytes`, else in parts of that size. The fingerprint is of the bytes that went out."""
    size = source.stat().st_size
    if size <= part_bytes:
        content = source.read_bytes()
        place.client.put_object(**place.at, Body=content, **place.extra)
        return Fingerprint(hashlib.sha256(content).hexdigest(), hashlib.md5(content, usedforsecurity=False).hexdigest())
    return _send_in_parts(place, source, part_bytes_for(size, part_bytes))


def part_bytes_for(size: int, part_bytes: int) -> int:
    """The size of a part: `part_bytes`, or larger where the file would have more than 10,000 of them."""
    while -(-size // part_bytes) > MAX_PARTS:
        part_bytes *= 2
    return part_bytes


def fingerprint(source: Path, part_bytes: int) -> Fingerprint:
    """The fingerprint that `send_file` gives of the file, without sending it."""
    sha256, md5s = hashlib.sha256(), []
    for part in _parts(source, part_bytes_for(source.stat().st_size, part_bytes), sha256):
        md5s.append(part.md5)
    return Fingerprint(sha256.hexdigest(), _etag(md5s))


def _send_in_parts(place: Place, source: Path, part_bytes: int) -> Fingerprint:
    upload, there = _begun(place, source, part_bytes)
    sha256, etags, md5s = hashlib.sha256(), dict[int, str](), list[str]()
    with ThreadPoolExecutor(NUM_SENDERS, "part") as senders:
        under_way: set[Future[tuple[int, str]]] = set()
        try:
            for part in _parts(source, part_bytes, sha256):
                md5s.append(part.md5)
                if there.get(part.number) == (len(part.content), part.md5):
                    etags[part.number] = f'"{part.md5}"'
                    continue
                under_way.add(senders.submit(_send_part, place, upload, part))
                del part
                if len(under_way) >= NUM_SENDERS:
                    under_way = _collect(under_way, etags, FIRST_COMPLETED)
            _collect(under_way, etags, "ALL_COMPLETED")
        except BaseException:
            for future in under_way:
                future.cancel()
            raise
    log.debug("%s: %d of %d parts were there already", place.key, sum(number in there for number in etags), len(etags))
    parts = [{"PartNumber": number, "ETag": etags[number]} for number in sorted(etags)]
    place.client.complete_multipart_upload(**place.at, UploadId=upload, MultipartUpload={"Parts": parts})
    return Fingerprint(sha256.hexdigest(), _etag(md5s))


def _begun(place: Place, source: Path, part_bytes: int) -> tuple[str, dict[int, tuple[int, str]]]:
    """The upload to go on with and its parts (size and MD5 by number): the newest whose parts are all ours, or a new one.

    The others are aborted: an upload's metadata is given when it begins, so one of other bytes would carry their digest.
    """
    chosen: tuple[str, dict[int, tuple[int, str]]] | None = None
    for upload in _unfinished(place):
        parts = _parts_there(place, upload)
        if chosen is None and parts and all(_measured(source, number, part_bytes) == part for number, part in parts.items()):
            chosen = upload, parts
        else:
            place.client.abort_multipart_upload(**place.at, UploadId=upload)
    return chosen or (place.client.create_multipart_upload(**place.at, **place.extra)["UploadId"], {})


def _unfinished(place: Place) -> list[str]:
    """The ids of the key's unfinished uploads, the newest first."""
    pages = place.client.get_paginator("list_multipart_uploads").paginate(Bucket=place.bucket, Prefix=place.key)
    found = [upload for page in pages for upload in page.get("Uploads", []) if upload["Key"] == place.key]
    return [upload["UploadId"] for upload in sorted(found, key=lambda upload: upload["Initiated"], reverse=True)]


def _parts_there(place: Place, upload: str) -> dict[int, tuple[int, str]]:
    pages = place.client.get_paginator("list_parts").paginate(**place.at, UploadId=upload)
    return {part["PartNumber"]: (part["Size"], part["ETag"].strip('"')) for page in pages for part in page.get("Parts", [])}


def _measured(source: Path, number: int, part_bytes: int) -> tuple[int, str]:
    """Size and MD5 of one part of the file."""
    with source.open("rb") as file:
        file.seek((number - 1) * part_bytes)
        content = file.read(part_bytes)
    return len(content), hashlib.md5(content, usedforsecurity=False).hexdigest()


def _send_part(place: Place, upload: str, part: Part) -> tuple[int, str]:
    checksum = {name: value for name, value in place.extra.items() if name == "ChecksumAlgorithm"}
    answer = place.client.upload_part(**place.at, UploadId=upload, PartNumber=part.number, Body=part.content, **checksum)
    return part.number, str(answer["ETag"])


def _collect(under_way: set[Future[tuple[int, str]]], etags: dict[int, str], until: str) -> set[Future[tuple[int, str]]]:
    """Wait, note the parts that arrived, raise what one of them failed with; those still under way."""
    done, left = wait(under_way, return_when=until)
    etags.update(future.result() for future in done)
    return left


def _parts(source: Path, part_bytes: int, sha256: Any) -> Iterator[Part]:
    """The file's parts in order, at least one; `sha256` takes every byte."""
    with source.open("rb") as file:
        number = 1
        while (content := file.read(part_bytes)) or number == 1:
            sha256.update(content)
            yield Part(number, content, hashlib.md5(content, usedforsecurity=False).hexdigest())
            number += 1


def _etag(md5s: list[str]) -> str:
    if len(md5s) == 1:
        return md5s[0]
    of_parts = hashlib.md5(b"".join(map(bytes.fromhex, md5s)), usedforsecurity=False)
    return f"{of_parts.hexdigest()}-{len(md5s)}"
