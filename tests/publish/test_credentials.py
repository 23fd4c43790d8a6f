"""Credentials that are lent to one task: used by it, seen by no other, and never told."""

import os
import threading
from pathlib import Path

import pytest
from laid_run import Run
from s3_server import ACCESS_KEY, SECRET_KEY, S3Server

from k2.publish.credentials import lent, setting
from k2.publish.failure import PublishFailed, PublishRefused
from k2.publish.shelf import browse
from k2.publish.target import HubTarget, S3Target
from k2.publish.upload import publish_checkpoint

BUCKET = "k2-lent"
CANARY = "canary-4c1d88-do-not-tell"


@pytest.fixture
def loan(s3_process: S3Server, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What opens the store, in an environment that does not."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "HF_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return {"AWS_ENDPOINT_URL": s3_process.url, "AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}


def test_what_is_lent_publishes_and_then_is_gone(run: Run, loan: dict[str, str], s3_process: S3Server) -> None:
    s3_process.connect().create_bucket(Bucket=BUCKET)
    name, target = run.checkpoint(1), S3Target(BUCKET, "models")
    environment = dict(os.environ)
    with lent(loan):
        publish_checkpoint(run.recipe, run.layout, name, [target])
        with browse(target) as shelf:
            assert shelf.names() == [name]
        assert dict(os.environ) == environment
        elsewhere: list[str | None] = []
        thread = threading.Thread(target=lambda: elsewhere.append(setting("AWS_SECRET_ACCESS_KEY")))
        thread.start()
        thread.join()
        assert elsewhere == [None]
    with pytest.raises(PublishRefused, match=r"needs credentials: set .*place\.credentials"):
        publish_checkpoint(run.recipe, run.layout, name, [target])


def test_keys_of_the_environment_are_not_mixed_with_those_that_are_lent(
    run: Run, loan: dict[str, str], s3_process: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3_process.connect().create_bucket(Bucket="k2-unmixed")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, "of another account")
    with lent(loan):
        publish_checkpoint(run.recipe, run.layout, run.checkpoint(1), [S3Target("k2-unmixed", "")])


def test_a_loan_that_does_not_open_is_not_told(run: Run, loan: dict[str, str], tmp_path: Path) -> None:
    name = run.checkpoint(1)
    with lent(loan | {"AWS_SECRET_ACCESS_KEY": CANARY}), pytest.raises(PublishRefused, match="correct AWS_SECRET_ACCESS_KEY") as refused:
        publish_checkpoint(run.recipe, run.layout, name, [S3Target(BUCKET, "models")])
    assert CANARY not in str(refused.value)
    away = {"HF_TOKEN": CANARY, "HF_ENDPOINT": f"http://me:{CANARY}@127.0.0.1:9"}
    with lent(away), pytest.raises(PublishFailed) as failed:
        publish_checkpoint(run.recipe, run.layout, name, [HubTarget("k2-team", "mini")])
    assert CANARY not in str(failed.value)
