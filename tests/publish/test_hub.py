"""Publishing to the Hugging Face Hub with its real client, against a server on loopback."""

from pathlib import Path

import pytest
from hub_server import HubServer
from laid_run import Run

from k2.publish.failure import PublishFailed, PublishRefused
from k2.publish.release import publish_release
from k2.publish.target import HubTarget
from k2.publish.upload import inspect_checkpoint, publish_checkpoint
from k2.run.receipt import RECEIPT, Receipt, check_files, read_receipt

K2 = HubTarget("LLM360", "K2-mini")
LARGE = 5  # weights, tokenizer, training state, rows and index of a chunk
WRITES = ("POST", "PUT", "DELETE")
READING_POSTS = ("/api/repos/create",)  # answers that the repository exists


def _writes(hub: HubServer) -> list[str]:
    return [request for request in hub.requests if request.startswith(WRITES) and not request.endswith(READING_POSTS)]


def test_a_checkpoint_is_a_branch_a_tag_and_main(run: Run, hub: HubServer) -> None:
    name = run.checkpoint(1)
    receipt = publish_checkpoint(run.recipe, run.layout, name, [K2])
    repository = hub.repositories[K2.repository]
    assert set(repository.branches) == {"main", name}
    assert repository.tags == {f"{name}-published": repository.branches[name]}
    files = hub.files(K2.repository, name)
    published = Receipt.model_validate_json(files[RECEIPT])
    assert set(files) == {file.path for file in published.files} | {RECEIPT, ".gitattributes"}
    assert files == hub.files(K2.repository, "main")
    assert receipt.facts["targets"][0] == {"target": str(K2), "files": 17, "bytes": sum(f.bytes for f in published.files), "verified": True}


def test_the_second_time_nothing_is_sent(run: Run, hub: HubServer) -> None:
    name = run.checkpoint(1)
    first = publish_checkpoint(run.recipe, run.layout, name, [K2])
    hub.requests.clear()
    assert publish_checkpoint(run.recipe, run.layout, name, [K2]) == first
    assert _writes(hub) == []


def test_one_commit_brings_everything(run: Run, hub: HubServer) -> None:
    name = run.checkpoint(1)
    publish_checkpoint(run.recipe, run.layout, name, [K2])
    commits = [request for request in hub.requests if "/commit/" in request]
    assert commits == [f"POST /api/models/{K2.repository}/commit/{name}", f"POST /api/models/{K2.repository}/commit/main"]
    assert len([request for request in hub.requests if request.startswith("PUT /upload")]) == LARGE  # each once


def test_the_published_revision_downloads_and_verifies(run: Run, hub: HubServer, tmp_path: Path) -> None:
    from huggingface_hub import snapshot_download

    name = run.checkpoint(1)
    publish_checkpoint(run.recipe, run.layout, name, [K2])
    there = Path(snapshot_download(K2.repository, revision=name, endpoint=hub.url, token="hf_loopback_token", local_dir=tmp_path / "down"))
    assert check_files(there, read_receipt(there)) == []


def test_large_files_go_in_parts(run: Run, hub: HubServer) -> None:
    hub.part_bytes = 1 << 20
    name = run.checkpoint(1, weights=1_000_000)
    publish_checkpoint(run.recipe, run.layout, name, [K2])
    assert hub.files(K2.repository, name)["model.safetensors"] == (run.layout.export(name) / "model.safetensors").read_bytes()
    assert len([request for request in hub.requests if request.startswith("PUT /upload")]) == 4 + LARGE - 1


def test_main_follows_the_newest_and_never_goes_back(run: Run, hub: HubServer) -> None:
    one, two = run.checkpoint(1), run.checkpoint(2)
    publish_checkpoint(run.recipe, run.layout, two, [K2])
    publish_checkpoint(run.recipe, run.layout, one, [K2])
    assert hub.files(K2.repository, "main") == hub.files(K2.repository, two)
    three = run.checkpoint(3)
    publish_checkpoint(run.recipe, run.layout, three, [K2])
    assert hub.files(K2.repository, "main") == hub.files(K2.repository, three)
    assert hub.files(K2.repository, one)["model.safetensors"] == (run.layout.export(one) / "model.safetensors").read_bytes()


def test_a_publisher_with_other_bytes_is_refused(run: Run, hub: HubServer, tmp_path: Path) -> None:
    name = run.checkpoint(1)
    publish_checkpoint(run.recipe, run.layout, name, [K2])
    before = hub.files(K2.repository, name)
    other = Run(tmp_path / "other")
    other.checkpoint(1, seed=5)
    hub.requests.clear()
    with pytest.raises(PublishRefused, match="already holds another ckpt_001"):
        publish_checkpoint(other.recipe, other.layout, name, [K2])
    assert hub.files(K2.repository, name) == before
    assert _writes(hub) == []


def test_damage_on_the_hub_is_found_and_mended(run: Run, hub: HubServer) -> None:
    name = run.checkpoint(1)
    publish_checkpoint(run.recipe, run.layout, name, [K2])
    good = hub.files(K2.repository, name)
    hub.damage(K2.repository, name, "config.json", b'{"model_type": "other"}\n')
    hub.damage(K2.repository, name, "model.safetensors", good["model.safetensors"][:-1] + b"\0")
    assert inspect_checkpoint(run.recipe, run.layout, name, [K2]) == [
        f"{K2}: config.json has other content",
        f"{K2}: model.safetensors has other content",
    ]
    publish_checkpoint(run.recipe, run.layout, name, [K2])
    assert hub.files(K2.repository, f"{name}-published") == good
    assert inspect_checkpoint(run.recipe, run.layout, name, [K2]) == []


COMMIT, TAG, MAIN = r"POST .*/commit/ckpt_001", r"POST .*/tag/", r"POST .*/commit/main"
UPLOAD, TREE = r"PUT /upload", r"GET .*/tree/"


@pytest.mark.parametrize(
    ("broken", "status"),
    [
        *((place, 400) for place in (UPLOAD, COMMIT, TAG, MAIN, TREE)),
        *((place, 503) for place in (COMMIT, TAG, MAIN)),
        *((place, 0) for place in (COMMIT, TAG, MAIN)),
        *(pytest.param(place, 0, marks=pytest.mark.slow) for place in (UPLOAD, TREE)),  # the client itself tries for 24 s
    ],
)
def test_a_publication_broken_anywhere_is_not_claimed_and_a_retry_finishes_it(run: Run, hub: HubServer, broken: str, status: int) -> None:
    name = run.checkpoint(1)
    hub.fail(broken, status, times=200)  # more often than the client tries for all its files
    with pytest.raises(PublishFailed, match="trying again goes on"):
        publish_checkpoint(run.recipe, run.layout, name, [K2])
    assert not run.layout.published(name).exists()
    hub.recover()
    receipt = publish_checkpoint(run.recipe, run.layout, name, [K2])
    assert receipt.facts["targets"][0]["verified"] is True
    assert inspect_checkpoint(run.recipe, run.layout, name, [K2]) == []
    assert hub.files(K2.repository, "main") == hub.files(K2.repository, f"{name}-published")


def test_what_an_incident_abandoned_gives_its_name_back(run: Run, hub: HubServer) -> None:
    one, two = run.checkpoint(1), run.checkpoint(2)
    for name in (one, two):
        publish_checkpoint(run.recipe, run.layout, name, [K2])
    abandoned = hub.files(K2.repository, one)
    for name in (one, two):
        run.abandon(name)
    run.checkpoint(1, seed=9)
    publish_checkpoint(run.recipe, run.layout, one, [K2])
    assert inspect_checkpoint(run.recipe, run.layout, one, [K2]) == []
    assert hub.files(K2.repository, one) != abandoned
    assert hub.files(K2.repository, "main") == hub.files(K2.repository, one)  # although ckpt_002, abandoned, had more tokens


def test_a_repository_that_holds_something_else_keeps_it(run: Run, hub: HubServer) -> None:
    name = run.checkpoint(1)
    publish_checkpoint(run.recipe, run.layout, name, [K2])
    hub.damage(K2.repository, "main", RECEIPT, b'{"bought": "milk"}')
    with pytest.raises(PublishRefused, match=r"holds a receipt\.json of something else"):
        publish_checkpoint(run.recipe, run.layout, run.checkpoint(2), [K2])
    assert hub.files(K2.repository, "main")[RECEIPT] == b'{"bought": "milk"}'


def test_files_of_an_earlier_shape_leave_the_branch(run: Run, hub: HubServer) -> None:
    one, two = run.checkpoint(1), run.checkpoint(2, more_files=("generation_config.json",))
    publish_checkpoint(run.recipe, run.layout, two, [K2])
    assert "generation_config.json" in hub.files(K2.repository, "main")
    publish_checkpoint(run.recipe, run.layout, one, [K2])
    assert "generation_config.json" not in hub.files(K2.repository, one)


def test_someone_elses_commit_in_between_is_not_overwritten(run: Run, hub: HubServer) -> None:
    name = run.checkpoint(1)
    hub.fail(rf"POST .*/commit/{name}", 412)
    with pytest.raises(PublishFailed):
        publish_checkpoint(run.recipe, run.layout, name, [K2])
    assert set(hub.files(K2.repository, name)) == {".gitattributes"}


def test_the_release_has_a_branch_of_its_own(run: Run, hub: HubServer) -> None:
    name = run.checkpoint(1)
    publish_checkpoint(run.recipe, run.layout, name, [K2])
    main = hub.files(K2.repository, "main")
    publish_release(run.recipe, run.layout, [K2])
    assert {"release.json", "README.md", "ledger.jsonl", "recipe.toml", RECEIPT} == set(hub.files(K2.repository, "release")) - {
        ".gitattributes"
    }
    assert hub.files(K2.repository, "main") == main


def test_a_wrong_token_and_no_token_are_refused(run: Run, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    name = run.checkpoint(1)
    monkeypatch.setenv("HF_TOKEN", "hf_canary_wrong_token")
    with pytest.raises(PublishRefused, match="HF_TOKEN is wrong or may not do this") as caught:
        publish_checkpoint(run.recipe, run.layout, name, [K2])
    assert "hf_canary_wrong_token" not in str(caught.value)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(PublishRefused, match="set HF_TOKEN"):
        publish_checkpoint(run.recipe, run.layout, name, [K2])
