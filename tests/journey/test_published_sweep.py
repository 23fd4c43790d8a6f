"""What is published without scores is scored from where it lies, by a machine that has nothing else: a bucket, a Hub repository."""

import json
import os
import signal
from typing import Any

import pytest
from hub_server import HubServer
from machine import MINI, Machine, wait_until

from k2.publish.borrow import borrowing_layout
from k2.publish.target import parse_target
from k2.run.receipt import RECEIPT

pytestmark = pytest.mark.slow
BUCKET, S3, HUB = "k2-sweep", "s3://k2-sweep/models/mini", "hf://k2-team/mini"
Rows = dict[tuple[str, str, str], float]


def scores(machine: Machine, what: str, *more: str) -> Rows:
    done = machine.k2("eval", what, "--json", *more)
    assert done.returncode == 0, done.stderr[-4000:]
    return {(row["checkpoint"], row["task"], row["metric"]): row["value"] for row in map(json.loads, done.stdout.splitlines())}


def receipts(machine: Machine, target: str) -> dict[str, bytes]:
    """What is scored there, task by task."""
    folder = borrowing_layout(machine.runs, parse_target(target)).all_task_scores
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob(RECEIPT) if not path.parent.name.startswith(".")}


def test_a_bucket_and_a_hub_repository_are_scored_as_the_run_is(machine: Machine, elsewhere: Machine, client: Any, hub: HubServer) -> None:
    client.create_bucket(Bucket=BUCKET)
    place = machine.root / "publishing.toml"
    place.write_text(f'data_dir = "{MINI.parent / "corpus"}"\nwandb_mode = "disabled"\npublish_to = ["{S3}", "{HUB}"]\n')
    few = ("layout.pipeline=1", "evaluation.every=99", "publishing.state=false", "publishing.data=false")
    ran = machine.k2("run", str(MINI), "--run", "mini", "--place", str(place), *(word for one in few for word in ("--set", one)))
    assert ran.returncode == 0, ran.stderr[-4000:]
    own = scores(machine, "mini", "--suite", "k2_tiny")  # the run's own sweep, from its checkpoints
    assert {checkpoint for checkpoint, _, _ in own} == {"ckpt_001", "ckpt_002", "ckpt_003", "ckpt_004"}

    two = elsewhere.root / "two.toml"
    two.write_text('evaluator_devices = ["cpu", "cpu"]\n')
    assert scores(elsewhere, S3, "--place", str(two)) == own
    assert {name.split("/")[0] for name in receipts(elsewhere, S3)} == {"ckpt_001", "ckpt_002", "ckpt_003"}  # the last came with its scores
    layout = borrowing_layout(elsewhere.runs, parse_target(S3))
    assert list(layout.exports.iterdir()) == []
    asked = [layout.evaluator_log(number).stat() for number in (0, 1)]  # both devices had a part in it
    assert scores(elsewhere, S3) == own
    assert [layout.evaluator_log(number).stat() for number in (0, 1)] == asked

    sweep = elsewhere.start("eval", HUB)
    wait_until(lambda: len(receipts(elsewhere, HUB)) > 2, 120)
    os.kill(sweep.pid, signal.SIGKILL)
    sweep.wait()
    before = receipts(elsewhere, HUB)
    assert scores(elsewhere, HUB) == own
    assert before.items() <= receipts(elsewhere, HUB).items()

    refused = elsewhere.k2("eval", f"{S3}/ckpt_009")
    assert refused.returncode == 1
    assert f"{S3} holds no published ckpt_009" in refused.stderr
