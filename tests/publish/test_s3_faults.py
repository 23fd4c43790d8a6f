"""A store that fails in the ways stores do: what is published is whole, compared, and sent no more than needed."""

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fault_proxy import Fault, FaultProxy
from s3_server import S3Server

from k2.publish.deliver import deliver, inspect
from k2.publish.failure import PublishFailed, PublishRefused
from k2.publish.multipart import Place, fingerprint, send_file
from k2.publish.parcel import Item, Parcel, digests_of, item_from_file
from k2.publish.s3 import S3Store, opened
from k2.publish.target import S3Target
from k2.run.receipt import Receipt, now

pytestmark = pytest.mark.slow

PART = 5 << 20  # the smallest part that S3 takes


@pytest.fixture
def proxy(s3: S3Server, bucket: S3Target, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    with FaultProxy(s3.url) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        yield proxy


@pytest.fixture(scope="module")
def parcel(tmp_path_factory: pytest.TempPathFactory) -> Parcel:
    """A large file of three parts and a small one."""
    folder = tmp_path_factory.mktemp("parcel")
    items = [_file(folder, "weights.bin", 2 * PART + 777), _file(folder, "config.json", 100)]
    receipt = Receipt(kind="checkpoint", name="ckpt_001", recipe="0" * 64, made_at=now(), files=digests_of(items))
    return Parcel("ckpt_001", tuple(items), receipt)


def _file(folder: Path, name: str, size: int) -> Item:
    (folder / name).write_bytes(hashlib.shake_256(name.encode()).digest(size))
    return item_from_file(name, folder / name)


def _deliver(bucket: S3Target, parcel: Parcel) -> None:
    with opened(bucket, f"{parcel.name} could not be published", part_bytes=PART) as store:
        deliver(store, parcel, str(bucket))


def _wrong(bucket: S3Target, parcel: Parcel) -> list[str]:
    with opened(bucket, f"{parcel.name} could not be published", part_bytes=PART) as store:
        return inspect(store, parcel, str(bucket))


WORLDLY = {
    "a burst of 500": [Fault("error", status=500, code="InternalError", times=4)],
    "slow down": [Fault("error", times=3), Fault("error", method="POST", times=1)],
    "latency": [Fault("latency", seconds=0.5, times=2)],
    "a reset in the middle of a part": [Fault("reset", pattern="partNumber=2")],
    "a reset at the end": [Fault("reset", method="POST", pattern="uploadId=")],
    "the end is done, its answer lost": [Fault("lost answer", method="POST", pattern="uploadId=")],
    "the receipt is created, its answer lost": [Fault("lost answer", pattern="receipt.json")],
    "a cut answer": [Fault("cut answer", method="GET", pattern="receipt.json")],
    "no list for a while": [Fault("error", method="GET", pattern="uploads", times=3)],
}


@pytest.mark.parametrize("name", WORLDLY)
def test_what_the_world_does_is_outlived(proxy: FaultProxy, bucket: S3Target, parcel: Parcel, name: str) -> None:
    proxy.faults = [Fault(**vars(fault)) for fault in WORLDLY[name]]
    for _ in range(4):  # as often as a task is tried
        try:
            _deliver(bucket, parcel)
            break
        except PublishFailed as failure:
            assert not isinstance(failure, PublishRefused), failure
    assert proxy.met
    assert not any(fault.times for fault in proxy.faults)
    assert _wrong(bucket, parcel) == []


REFUSED = {
    "RequestTimeTooSkewed": (403, "this machine's clock is wrong"),
    "ExpiredToken": (400, "the session has expired"),
    "AccessDenied": (403, "the credentials may not do this"),
}


@pytest.mark.parametrize("code", REFUSED)
def test_what_trying_again_does_not_mend_is_said_at_once(proxy: FaultProxy, bucket: S3Target, parcel: Parcel, code: str) -> None:
    status, fix = REFUSED[code]
    proxy.faults = [Fault("error", status=status, code=code, times=50)]
    with pytest.raises(PublishRefused, match=fix):
        _deliver(bucket, parcel)
    proxy.faults = []
    assert any("has no receipt" in line for line in _wrong(bucket, parcel))
    _deliver(bucket, parcel)
    assert _wrong(bucket, parcel) == []


def test_parts_that_arrived_are_not_sent_again(proxy: FaultProxy, bucket: S3Target, parcel: Parcel, client: Any) -> None:
    proxy.faults = [Fault("error", pattern="partNumber=3", status=500, code="InternalError", times=50)]
    with pytest.raises(PublishFailed):
        _deliver(bucket, parcel)
    proxy.faults, proxy.requests = [], []
    _deliver(bucket, parcel)
    assert [line for line in proxy.requests if "partNumber=" in line and "partNumber=3" not in line] == []
    assert _wrong(bucket, parcel) == []
    assert "Uploads" not in client.list_multipart_uploads(Bucket=bucket.bucket)


def test_a_publisher_killed_in_an_upload_is_gone_on_with(proxy: FaultProxy, bucket: S3Target, parcel: Parcel, client: Any) -> None:
    """SIGKILL while the third part is held up on its way; the two before it lie in the store."""
    proxy.faults = [Fault("latency", pattern="partNumber=3", seconds=60.0)]
    weights = next(item for item in parcel.items if item.path == "weights.bin")
    script = (
        "import sys; from pathlib import Path; from k2.publish.multipart import Place, send_file; from k2.publish.s3 import client_of;"
        f"send_file(Place(client_of({proxy.url!r}), {bucket.bucket!r}, {bucket.prefix + '/ckpt_001/weights.bin'!r},"
        f" {{'Metadata': {{'sha256': {weights.sha256!r}}}}}), Path({str(weights.source)!r}), {PART})"
    )
    publisher = subprocess.Popen([sys.executable, "-c", script], env=dict(os.environ))
    try:
        while not {1, 2} <= _parts_there(client, bucket):
            assert publisher.poll() is None
    finally:
        os.kill(publisher.pid, signal.SIGKILL)
        publisher.wait()
    proxy.faults, proxy.requests = [], []
    _deliver(bucket, parcel)
    sent = [line for line in proxy.requests if "partNumber=" in line]
    assert len(sent) == 1
    assert "partNumber=3" in sent[0]
    assert _wrong(bucket, parcel) == []


def _parts_there(client: Any, bucket: S3Target) -> set[int]:
    uploads = client.list_multipart_uploads(Bucket=bucket.bucket).get("Uploads", [])
    return {
        part["PartNumber"]
        for upload in uploads
        for part in client.list_parts(Bucket=bucket.bucket, Key=upload["Key"], UploadId=upload["UploadId"]).get("Parts", [])
    }


def test_the_parts_of_other_bytes_are_not_gone_on_with(client: Any, bucket: S3Target, tmp_path: Path) -> None:
    """An unfinished upload of a file that was made anew since: its parts are replaced, what is complete is the new file."""
    key = f"{bucket.prefix}/x"
    upload = client.create_multipart_upload(Bucket=bucket.bucket, Key=key)["UploadId"]
    client.upload_part(Bucket=bucket.bucket, Key=key, UploadId=upload, PartNumber=1, Body=b"?" * PART)
    item = _file(tmp_path, "x", PART + 5)
    place = Place(client, bucket.bucket, key, {"Metadata": {"sha256": item.sha256}})
    assert send_file(place, item.source, PART) == fingerprint(item.source, PART)
    assert S3Store(client, bucket, part_bytes=PART).differs("x", item) is None
    assert "Uploads" not in client.list_multipart_uploads(Bucket=bucket.bucket)
