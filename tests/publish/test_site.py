"""Page and galleries beside what is published: a part more with every checkpoint, to be read from the target by anybody."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hub_server import HubServer
from laid_run import Run

from k2.publish.failure import PublishFailed, PublishRefused
from k2.publish.release import publish_release
from k2.publish.site import publish_shown, refresh_site
from k2.publish.target import FolderTarget, HubTarget, S3Target, Target
from k2.publish.upload import claims, publish_checkpoint
from k2.report.page import build_page, show_checkpoint
from k2.run.holdings import held_checkpoints
from k2.run.ledger import read_facts
from k2.run.receipt import Receipt, check_files, read_receipt

K2 = HubTarget("LLM360", "K2-mini")
CLOCK = 1_800_000_000.0


def show(run: Run, name: str, *targets: Target) -> Receipt:
    facts = read_facts(run.layout.ledger)
    return show_checkpoint(run.recipe, run.layout, facts, name, CLOCK, lambda shown: claims(publish_shown(run.layout, shown, targets)))


def answers(number: int) -> str:
    return f"report/gallery/acc/2/ckpt_{number:03d}/k2_choice.js"


def told(index: bytes) -> list[str]:
    content = index.decode().removeprefix('gallery.take("index",').removesuffix(")\n")
    return [point["name"] for point in json.loads(content)["checkpoints"]]


def test_a_folder_can_be_read_as_the_run_directory(run: Run, tmp_path: Path) -> None:
    target = FolderTarget(tmp_path / "published")
    receipts = [show(run, run.checkpoint(number), target) for number in (1, 2)]
    site = target.path / "report"
    assert told((site / "gallery" / "index.js").read_bytes()) == ["ckpt_001", "ckpt_002"]
    for path in ("gallery/index.html", "gallery/index.js", "gallery/README.md"):
        assert (site / path).read_bytes() == (run.layout.report / path).read_bytes()
    for number, receipt in enumerate(receipts, 1):
        standing = read_receipt(site / f"ckpt_{number:03d}.json")
        assert check_files(site, standing) == []
        assert answers(number).removeprefix("report/") in {file.path for file in standing.files}
        [claim] = receipt.facts["targets"]
        assert (claim["target"], claim["files"], claim["verified"]) == (str(target), 4, True)


def test_the_second_time_nothing_is_written(run: Run, tmp_path: Path) -> None:
    target = FolderTarget(tmp_path / "published")
    shown = show(run, run.checkpoint(1), target)
    before = {path: path.stat().st_mtime_ns for path in target.path.rglob("*.*")}
    assert [delivered.sent for delivered in publish_shown(run.layout, shown, [target])] == [0]
    assert show(run, "ckpt_001", target) == shown
    refresh_site(run.layout, held_checkpoints(run.recipe, run.layout), [target])
    assert {path: path.stat().st_mtime_ns for path in target.path.rglob("*.*")} == before


def test_what_broke_off_is_finished_and_leaves_no_receipt_before(run: Run, tmp_path: Path) -> None:
    target, blocked = FolderTarget(tmp_path / "published"), tmp_path / "a-file"
    blocked.write_text("in the way")
    name = run.checkpoint(1)
    with pytest.raises(PublishFailed, match="a-file"):
        show(run, name, FolderTarget(blocked), target)
    assert not run.layout.shown(name).exists()
    (target.path / answers(1)).write_bytes(b"torn")
    show(run, name, target)
    assert check_files(target.path / "report", read_receipt(target.path / "report" / f"{name}.json")) == []


def test_another_runs_galleries_are_not_mixed_in(run: Run, tmp_path: Path) -> None:
    target = FolderTarget(tmp_path / "published")
    show(run, run.checkpoint(1), target)
    index = (target.path / "report" / "gallery" / "index.js").read_bytes()
    other = Run(tmp_path / "other", name="mini-2")
    with pytest.raises(PublishRefused, match="already holds another report/ckpt_001"):
        show(other, other.checkpoint(1, seed=5), target)
    assert (target.path / "report" / "gallery" / "index.js").read_bytes() == index


def test_what_an_incident_abandoned_is_shown_anew(run: Run, tmp_path: Path) -> None:
    target, name = FolderTarget(tmp_path / "published"), run.checkpoint(1)
    first = show(run, name, target)
    run.abandon(name)
    again = show(run, run.checkpoint(1, seed=9), target)
    assert again.inputs != first.inputs
    assert read_receipt(target.path / "report" / f"{name}.json").inputs == again.inputs
    assert len(list((target.path / "retracted" / "report").iterdir())) == 1


def test_in_a_bucket_a_browser_shows_it(run: Run, bucket: S3Target, client: Any) -> None:
    show(run, run.checkpoint(1), bucket)
    show(run, run.checkpoint(2), bucket)

    def got(path: str) -> Any:
        return client.get_object(Bucket=bucket.bucket, Key=f"{bucket.prefix}/{path}")

    assert told(got("report/gallery/index.js")["Body"].read()) == ["ckpt_001", "ckpt_002"]
    assert got("report/index.html")["ContentType"].startswith("text/html")
    assert got(answers(2))["ContentType"].startswith("text/javascript")
    assert got("report/gallery/index.js")["CacheControl"] == "no-cache"
    standing = Receipt.model_validate_json(got("report/ckpt_002.json")["Body"].read())
    assert check_files(run.layout.report, standing) == []


def test_on_the_hub_it_is_a_branch_that_grows(run: Run, hub: HubServer) -> None:
    publish_checkpoint(run.recipe, run.layout, run.checkpoint(1), [K2])
    show(run, "ckpt_001", K2)
    first = hub.files(K2.repository, "report")
    site = {"report/index.html", *(f"report/gallery/{name}" for name in ("index.html", "index.js", "README.md"))}
    questions = {f"report/gallery/questions/{task}.js" for task in ("k2_choice", "k2_bits")}
    brought = {answers(1), "report/gallery/bits_per_byte/2/ckpt_001/k2_bits.js", "report/ckpt_001.json"}
    assert set(first) == site | questions | brought | {".gitattributes"}
    shown = show(run, run.checkpoint(2), K2)
    assert told(hub.files(K2.repository, "report")["report/gallery/index.js"]) == ["ckpt_001", "ckpt_002"]
    assert set(hub.files(K2.repository, "report")) > set(first)
    hub.requests.clear()
    assert [delivered.sent for delivered in publish_shown(run.layout, shown, [K2])] == [0]
    assert not [request for request in hub.requests if "/commit/" in request]
    assert hub.files(K2.repository, "main") == hub.files(K2.repository, "ckpt_001")


def test_every_link_of_the_published_page_leads_to_a_file_beside_it(run: Run, tmp_path: Path) -> None:
    target = FolderTarget(tmp_path / "published")
    for number in (1, 2):
        publish_checkpoint(run.recipe, run.layout, run.checkpoint(number), [target])
        show(run, f"ckpt_{number:03d}", target)
    run.checkpoint(3)  # not published: nothing leads to it
    build_page(run.recipe, run.layout, read_facts(run.layout.ledger), CLOCK)
    publish_release(run.recipe, run.layout, [target])
    refresh_site(run.layout, held_checkpoints(run.recipe, run.layout), [target])
    for page in (target.path / "report" / "index.html", target.path / "release" / "index.html"):
        links = re.findall(r'href="([^"]*)"', page.read_text())
        assert {"../report/gallery/index.html", "../ckpt_002/README.md", "../report/gallery/index.html#b=ckpt_001"} <= set(links)
        assert [link for link in links if not (page.parent / link.partition("#")[0]).is_file()] == []
    suites = target.path / "release" / "README.md"
    links = re.findall(r"\]\(([^)]*)\)", suites.read_text())
    assert {"../ckpt_001/README.md", "../ckpt_002/data/README.md", "../report/gallery/index.html", "index.html"} <= set(links)
    assert [link for link in links if not (suites.parent / link).is_file()] == []
    assert [line for line in suites.read_text().splitlines() if line.startswith("## ") and "suite:" in line] == [
        "## Research suite: how it was learnt",
        "## Pretraining suite: how it is done again",
        "## Developer suite: how it is used",
    ]
