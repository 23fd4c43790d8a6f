"""A published checkpoint in somebody else's hands: from a real S3 server into an empty directory, and it trains on to the same losses."""

import json
from pathlib import Path
from typing import Any

import pytest
from machine import MINI, Machine
from s3_server import SECRET_KEY

from k2.run.ledger import RunRestored, read_facts
from k2.run.receipt import Receipt

pytestmark = pytest.mark.slow
BUCKET, TARGET = "k2-journey", "s3://k2-journey/models/mini"


def published(client: Any) -> dict[str, bytes]:
    """Every object below the target."""
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix="models/mini/")
    keys = [found["Key"] for page in pages for found in page.get("Contents", [])]
    return {key.removeprefix("models/mini/"): client.get_object(Bucket=BUCKET, Key=key)["Body"].read() for key in keys}


def place_of(machine: Machine, **settings: object) -> str:
    path = machine.root / "place.toml"
    path.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in {"wandb_mode": "disabled", **settings}.items()))
    return str(path)


def test_a_run_published_to_s3_is_restored_elsewhere_and_trains_on_bit_equal(
    machine: Machine, elsewhere: Machine, client: Any, tmp_path: Path
) -> None:
    client.create_bucket(Bucket=BUCKET)
    said: list[str] = []

    def k2(at: Machine, *arguments: str) -> str:
        done = at.k2(*arguments)
        said.extend((done.stdout, done.stderr))
        assert done.returncode == 0, done.stderr[-4000:]
        return done.stdout

    place = place_of(machine, data_dir=str(MINI.parent / "corpus"), publish_to=[TARGET])
    k2(machine, "run", str(MINI), "--run", "mini", "--place", place)
    restored = json.loads(k2(elsewhere, "restore", f"{TARGET}/ckpt_002", "--run", "again", "--place", place_of(elsewhere), "--json"))
    assert (restored["checkpoint"], restored["verified"], restored["missing_chunks"]) == ("ckpt_002", True, [])
    assert json.loads(k2(elsewhere, "data", "verify", "again", "--json"))["bad"] == []
    asked = ("--stage", "stage1", "--step", "11", "--json")
    assert k2(elsewhere, "data", "seen", "again", *asked) == k2(machine, "data", "seen", "mini", *asked) != ""
    k2(elsewhere, "resume", "again")
    assert elsewhere.losses("again") == machine.losses("mini")
    status = elsewhere.status("again")
    assert status["state"] == "done"
    assert [c["name"] for c in status["checkpoints"]] == ["ckpt_002", "ckpt_003", "ckpt_004"]  # type: ignore[attr-defined, index]
    [origin] = [fact for fact in read_facts(elsewhere.layout("again").ledger) if isinstance(fact, RunRestored)]
    assert origin.source == TARGET

    objects = published(client)
    for name in ("ckpt_001", "ckpt_002", "ckpt_003", "ckpt_004"):
        shown = Receipt.model_validate_json(objects[f"report/{name}.json"])
        assert len(shown.files) > 10
        assert all(len(objects[f"report/{file.path}"]) == file.bytes for file in shown.files)
    assert {"report/index.html", "report/gallery/index.html", "release/release.json"} <= objects.keys()

    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 400
    assert not [content for content in (*written, *objects.values(), *map(str.encode, said)) if SECRET_KEY.encode() in content]
