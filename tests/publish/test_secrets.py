"""A planted secret is searched for wherever publishing leaves anything: logs, receipts, cards, stores, errors."""

import traceback
from pathlib import Path
from typing import Any

import pytest
from hub_server import TOKEN, HubServer
from laid_run import Run
from s3_server import SECRET_KEY, S3Server

from k2.publish.failure import PublishFailed, without_secrets
from k2.publish.release import publish_release
from k2.publish.site import publish_shown
from k2.publish.target import FolderTarget, HubTarget, S3Target
from k2.publish.upload import claims, publish_checkpoint
from k2.report.page import show_checkpoint
from k2.run.ledger import read_facts

K2 = HubTarget("LLM360", "K2-mini")
CANARY = "canary-7f3a9c-do-not-tell"


def _told(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


def test_nothing_that_is_written_holds_a_secret(
    run: Run,
    hub: HubServer,
    bucket: S3Target,
    client: Any,
    everything_logged: pytest.LogCaptureFixture,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "")
    everything_logged.clear()
    name, folder = run.checkpoint(1), FolderTarget(tmp_path / "out")
    publish_checkpoint(run.recipe, run.layout, name, [folder, bucket, K2])
    facts, targets = read_facts(run.layout.ledger), [folder, bucket, K2]
    show_checkpoint(run.recipe, run.layout, facts, name, 0.0, lambda shown: claims(publish_shown(run.layout, shown, targets)))
    publish_release(run.recipe, run.layout, [folder, bucket, K2])
    written = [p.read_bytes() for root in (run.layout.root, folder.path) for p in root.rglob("*") if p.is_file()]
    written += [content for revision in ("main", name, "report", "release") for content in hub.files(K2.repository, revision).values()]
    assert len(written) > 40
    for secret in (SECRET_KEY, TOKEN):
        assert not [content for content in written if secret.encode() in content]
        assert secret not in everything_logged.text
    assert "ckpt_001 -> " in everything_logged.text


def test_no_error_tells_the_secret_it_failed_with(
    run: Run, hub: HubServer, bucket: S3Target, everything_logged: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = run.checkpoint(1)
    everything_logged.clear()
    for variable in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "HF_TOKEN"):
        monkeypatch.setenv(variable, CANARY)
    for target in (bucket, K2):
        with pytest.raises(PublishFailed) as caught:
            publish_checkpoint(run.recipe, run.layout, name, [target])
        assert CANARY not in _told(caught.value)
    assert not [record for record in everything_logged.records if record.name.startswith("k2") and CANARY in record.getMessage()]


def test_a_signed_url_is_not_quoted(run: Run, hub: HubServer, everything_logged: pytest.LogCaptureFixture) -> None:
    hub.fail("PUT /upload", 403, times=20)
    with pytest.raises(PublishFailed) as caught:
        publish_checkpoint(run.recipe, run.layout, run.checkpoint(1), [K2])
    assert "presigned-canary" not in _told(caught.value)
    assert "403" in str(caught.value)


def test_a_server_that_is_away_is_a_failure_without_secrets(run: Run, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://user:{CANARY}@127.0.0.1:9")
    monkeypatch.setenv("HF_ENDPOINT", f"http://user:{CANARY}@127.0.0.1:9")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    name = run.checkpoint(1)
    for target in (S3Target("k2-models", ""), K2):
        with pytest.raises(PublishFailed) as caught:
            publish_checkpoint(run.recipe, run.layout, name, [target])
        assert CANARY not in _told(caught.value)


def test_redaction(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", CANARY)
    said = without_secrets(f"PUT https://me:pw@host/a/b?X-Amz-Signature=abc&x=1 failed for {CANARY}, see http://host/c")
    assert said == "PUT https://host/a/b?*** failed for ***, see http://host/c"


def test_every_credential_of_the_environment_is_blotted_out_and_no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GH_TOKEN", CANARY)
    monkeypatch.setenv("DB_PASS", f"{CANARY}-and-more")
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    monkeypatch.setenv("GIT_AUTHOR_NAME", "LLM360")
    assert without_secrets(f"{CANARY}-and-more, {CANARY}: LLM360 in eu-central-1") == "***, ***: LLM360 in eu-central-1"
