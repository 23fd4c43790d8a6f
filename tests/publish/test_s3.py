"""Publishing to a real S3 server: compared, committed once, mended after a crash."""

import hashlib
import threading
from pathlib import Path
from typing import Any

import pytest
from laid_run import Run
from s3_server import S3Server

from k2.publish.failure import PublishFailed, PublishRefused
from k2.publish.multipart import fingerprint
from k2.publish.parcel import Item, item_from_file
from k2.publish.release import publish_release
from k2.publish.s3 import S3Store
from k2.publish.target import S3Target
from k2.publish.upload import inspect_checkpoint, publish_checkpoint
from k2.run.receipt import RECEIPT, Receipt

PART = 5 << 20  # the smallest part that S3 takes


def _listing(client: Any, target: S3Target) -> dict[str, tuple[str, str]]:
    """Keys below the prefix with their ETag and time."""
    found = client.list_objects_v2(Bucket=target.bucket, Prefix=target.prefix).get("Contents", [])
    return {o["Key"].removeprefix(f"{target.prefix}/"): (o["ETag"], str(o["LastModified"])) for o in found}


def _read(client: Any, target: S3Target, path: str) -> bytes:
    content: bytes = client.get_object(Bucket=target.bucket, Key=f"{target.prefix}/{path}")["Body"].read()
    return content


def _file(folder: Path, size: int) -> Item:
    source = folder / f"{size}.bin"
    source.write_bytes(hashlib.shake_256(str(size).encode()).digest(size))
    return item_from_file(source.name, source)


def test_a_checkpoint_lies_in_the_bucket_and_is_sent_once(run: Run, bucket: S3Target, client: Any) -> None:
    name = run.checkpoint(1)
    receipt = publish_checkpoint(run.recipe, run.layout, name, [bucket])
    before = _listing(client, bucket)
    published = Receipt.model_validate_json(_read(client, bucket, f"{name}/{RECEIPT}"))
    assert set(before) == {f"{name}/{file.path}" for file in published.files} | {f"{name}/{RECEIPT}"}
    for file in published.files:
        assert hashlib.sha256(_read(client, bucket, f"{name}/{file.path}")).hexdigest() == file.sha256
    assert receipt.facts["targets"] == [
        {"target": str(bucket), "files": len(published.files), "bytes": sum(f.bytes for f in published.files), "verified": True}
    ]
    assert publish_checkpoint(run.recipe, run.layout, name, [bucket]) == receipt
    assert _listing(client, bucket) == before


def test_damage_in_the_bucket_is_found_and_mended(run: Run, bucket: S3Target, client: Any) -> None:
    name = run.checkpoint(1)
    publish_checkpoint(run.recipe, run.layout, name, [bucket])
    key = f"{bucket.prefix}/{name}/model.safetensors"
    content = _read(client, bucket, f"{name}/model.safetensors")
    flipped = content[:-1] + bytes([content[-1] ^ 1])
    client.put_object(Bucket=bucket.bucket, Key=key, Body=flipped, Metadata={"sha256": hashlib.sha256(content).hexdigest()})
    client.put_object(Bucket=bucket.bucket, Key=f"{bucket.prefix}/{name}/config.json", Body=b"{}")
    client.delete_object(Bucket=bucket.bucket, Key=f"{bucket.prefix}/{name}/README.md")
    assert [line.removeprefix(f"{bucket}/{name}/") for line in inspect_checkpoint(run.recipe, run.layout, name, [bucket])] == [
        "README.md: is missing",
        "config.json: has 2 bytes instead of 24",
        "model.safetensors: has other content",
    ]
    publish_checkpoint(run.recipe, run.layout, name, [bucket])
    assert _read(client, bucket, f"{name}/model.safetensors") == content
    assert inspect_checkpoint(run.recipe, run.layout, name, [bucket]) == []


def test_a_publisher_with_other_bytes_is_refused(run: Run, bucket: S3Target, client: Any, tmp_path: Path) -> None:
    name = run.checkpoint(1)
    publish_checkpoint(run.recipe, run.layout, name, [bucket])
    before = _listing(client, bucket)
    other = Run(tmp_path / "other")
    other.checkpoint(1, seed=5)
    with pytest.raises(PublishRefused, match="already holds another ckpt_001"):
        publish_checkpoint(other.recipe, other.layout, name, [bucket])
    assert _listing(client, bucket) == before
    assert not other.layout.published(name).exists()


def test_an_object_is_created_once(client: Any, bucket: S3Target) -> None:
    store = S3Store(client, bucket)
    assert store.create("ckpt_001/receipt.json", b"first")
    assert not store.create("ckpt_001/receipt.json", b"second")
    assert store.read("ckpt_001/receipt.json") == b"first"


@pytest.mark.parametrize("size", [0, 1, PART - 1, PART, PART + 1, 2 * PART, 2 * PART + 12345])
@pytest.mark.parametrize("checksum", [None, "CRC64NVME"])
def test_sizes_around_the_parts_are_verified_by_their_etag(
    client: Any, bucket: S3Target, tmp_path: Path, size: int, checksum: str | None
) -> None:
    store, item = S3Store(client, bucket, part_bytes=PART, checksum=checksum), _file(tmp_path, size)
    assert store.differs("x", item) == "is missing"
    store.send("x", item)
    assert store.differs("x", item) is None
    head = client.head_object(Bucket=bucket.bucket, Key=f"{bucket.prefix}/x")
    assert head["ETag"].strip('"') == fingerprint(item.source, PART).etag
    assert _read(client, bucket, "x") == item.source.read_bytes()


def test_another_kind_of_etag_is_settled_by_reading_back(client: Any, bucket: S3Target, tmp_path: Path) -> None:
    item = _file(tmp_path, 2 * PART + 1)
    S3Store(client, bucket, part_bytes=PART).send("x", item)
    assert S3Store(client, bucket, part_bytes=2 * PART).differs("x", item) is None
    other = _file(tmp_path, 2 * PART + 2)
    client.put_object(Bucket=bucket.bucket, Key=f"{bucket.prefix}/x", Body=b"?" * other.bytes, Metadata={"sha256": other.sha256})
    assert S3Store(client, bucket, part_bytes=2 * PART).differs("x", other) == "has other content"


def test_a_source_that_changes_meanwhile_is_refused(client: Any, bucket: S3Target, tmp_path: Path) -> None:
    store, item = S3Store(client, bucket), _file(tmp_path, 1000)
    item.source.write_bytes(b"!" * 1000)
    store.send("x", item)
    with pytest.raises(PublishRefused, match="changed while it was being published"):
        store.differs("x", item)


def test_a_server_killed_in_the_middle_leaves_nothing_claimed_and_a_retry_finishes(
    run: Run, bucket: S3Target, client: Any, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = run.checkpoint(1, weights=12_000_000)  # 48 MB: long enough on loopback to be cut in the middle
    killer = threading.Thread(target=_kill_when_begun, args=(s3, client, bucket))
    killer.start()
    with pytest.raises(PublishFailed, match="trying again goes on where it broke") as caught:
        publish_checkpoint(run.recipe, run.layout, name, [bucket])
    killer.join()
    assert not isinstance(caught.value, PublishRefused)
    assert not run.layout.published(name).exists()
    s3.start()
    begun = _listing(client, bucket)
    assert begun
    assert f"{name}/{RECEIPT}" not in begun
    publish_checkpoint(run.recipe, run.layout, name, [bucket])
    after = _listing(client, bucket)
    assert inspect_checkpoint(run.recipe, run.layout, name, [bucket]) == []
    assert begun.items() <= after.items()


def _kill_when_begun(s3: S3Server, client: Any, bucket: S3Target) -> None:
    while not _listing(client, bucket):
        pass
    s3.kill()


def test_what_an_incident_abandoned_gives_its_name_back(run: Run, bucket: S3Target, client: Any) -> None:
    name = run.checkpoint(1)
    publish_checkpoint(run.recipe, run.layout, name, [bucket])
    run.abandon(name)
    run.checkpoint(1, seed=9)
    publish_checkpoint(run.recipe, run.layout, name, [bucket])
    assert inspect_checkpoint(run.recipe, run.layout, name, [bucket]) == []
    assert [path for path in _listing(client, bucket) if path.startswith("retracted/ckpt_001-")]


def test_the_release_lies_beside_the_checkpoints(run: Run, bucket: S3Target, client: Any) -> None:
    publish_checkpoint(run.recipe, run.layout, run.checkpoint(1), [bucket])
    publish_release(run.recipe, run.layout, [bucket])
    assert {"release/release.json", "release/ledger.jsonl", "release/recipe.toml", "release/receipt.json"} <= set(_listing(client, bucket))


def test_a_wrong_secret_is_refused_with_its_fix(run: Run, bucket: S3Target, monkeypatch: pytest.MonkeyPatch) -> None:
    name = run.checkpoint(1)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-wrong-secret")
    with pytest.raises(PublishRefused, match="correct AWS_SECRET_ACCESS_KEY") as caught:
        publish_checkpoint(run.recipe, run.layout, name, [bucket])
    assert "canary-wrong-secret" not in str(caught.value)
    assert not run.layout.published(name).exists()


def test_a_missing_bucket_and_missing_credentials_are_refused(run: Run, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    name = run.checkpoint(1)
    with pytest.raises(PublishRefused, match="the bucket does not exist there: create it"):
        publish_checkpoint(run.recipe, run.layout, name, [S3Target("k2-nowhere", "")])
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(PublishRefused, match="needs credentials: set AWS_ACCESS_KEY_ID"):
        publish_checkpoint(run.recipe, run.layout, name, [S3Target("k2-nowhere", "")])
