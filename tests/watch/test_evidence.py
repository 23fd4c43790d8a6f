"""The incident's folder: complete, and the same whenever its making was killed."""

import os
import signal
import sys
from collections.abc import Callable

import numpy as np
import pytest
from spike_families import TINY, calm, records

from k2.recipe.schema import Recipe
from k2.run.durable import remove_folder, sweep
from k2.run.holdings import read_holdings
from k2.run.layout import RunLayout
from k2.run.ledger import AttemptStarted, Fact, IncidentDecided, IncidentOpened
from k2.run.receipt import Receipt, check_files, commit_receipt_only, now, read_receipt
from k2.run.records import read_records
from k2.watch.event import Event
from k2.watch.evidence import keep_evidence
from k2.watch.policy import answer
from k2.watch.target import abandoned

FIRST = AttemptStarted(attempt=1, stage="stage1", checkpoint=None, first_step=1)
SPIKE = Event("malignant.long", "stage1", 1, 291, 302, 1.5, 12.0, 4.4, 0.12, 12, 0.25)


class Scene:
    """A run at step 305 with an incident that is decided and not healed."""

    def __init__(self, recipe: Recipe, layout: RunLayout, commit: Callable[..., None]) -> None:
        self.recipe, self.layout = recipe, layout
        loss = calm(TINY, np.random.default_rng(0))[:305]
        path = layout.metrics("stage1", 1)
        path.parent.mkdir(parents=True)
        path.write_text("".join(record.line() for record in records(loss)))
        for step in (260, 270, 290, 300):
            commit(f"rescue_stage1_{step:06d}", "rescue", step)
        commit("ckpt_007", "chunk", 280)
        commit("rescue_stage1_000305", "stop", 305)
        for folder in (layout.verified("ckpt_007"), layout.export("ckpt_007"), layout.scores("ckpt_007")):
            commit_receipt_only(folder, Receipt(kind="duty", name="ckpt_007", recipe="", made_at=now()))
        self.facts: list[Fact] = [FIRST]
        self.facts += answer(recipe, self.facts, read_holdings(recipe, layout, self.facts), SPIKE)

    @property
    def incident(self) -> IncidentOpened:
        return next(f for f in self.facts if isinstance(f, IncidentOpened))

    @property
    def decision(self) -> IncidentDecided:
        return next(f for f in self.facts if isinstance(f, IncidentDecided))

    def heal(self) -> Receipt:
        """As the driver does, after every crash anew."""
        names = abandoned(read_holdings(self.recipe, self.layout, self.facts), self.incident, self.decision)
        return keep_evidence(self.layout, self.recipe, self.facts, self.incident, self.decision, names, lambda _records: "<svg/>")

    def heal_and_die(self, rename: int) -> bool:
        """In a child that is killed at its n-th rename, before it happens. Whether it came so far."""
        child = os.fork()
        if child == 0:
            left = rename

            def count(event: str, _arguments: tuple[object, ...]) -> None:
                nonlocal left
                if event == "os.rename":
                    left -= 1
                    if left < 0:
                        os.kill(os.getpid(), signal.SIGKILL)

            sys.addaudithook(count)
            self.heal()
            os._exit(0)
        return os.WIFSIGNALED(os.waitpid(child, 0)[1])

    def tree(self) -> set[str]:
        return {str(p.relative_to(self.layout.root)) for p in self.layout.root.rglob("*") if p.is_file()}


@pytest.fixture
def scene(recipe: Recipe, layout: RunLayout, commit: Callable[..., None]) -> Scene:
    return Scene(recipe, layout, commit)


ASIDE = ["ckpt_007", "rescue_stage1_000290", "rescue_stage1_000300", "rescue_stage1_000305"]


def test_the_folder_holds_records_summary_and_what_was_abandoned(scene: Scene) -> None:
    receipt = scene.heal()
    folder = scene.layout.incident(1)
    assert receipt.facts["abandoned"] == ASIDE
    assert sorted(receipt.inputs) == ASIDE
    assert check_files(folder, receipt) == []
    assert [f.path for f in receipt.files] == ["loss.svg", "records.jsonl", "summary.md"]
    assert [r.step for r in read_records(folder / "records.jsonl")] == list(range(291 - 120, 306))
    for name in ASIDE:
        kept = folder / "checkpoints" / name
        assert check_files(kept, read_receipt(kept)) == []
    held = read_holdings(scene.recipe, scene.layout, scene.facts).checkpoints
    assert [c.name for c in held] == ["rescue_stage1_000260", "rescue_stage1_000270"]


def test_nothing_that_was_settled_stays_settled_for_a_later_checkpoint_of_that_name(scene: Scene, commit: Callable[..., None]) -> None:
    scene.heal()
    commit("ckpt_007", "chunk", 280)
    again = next(c for c in read_holdings(scene.recipe, scene.layout, scene.facts).checkpoints if c.name == "ckpt_007")
    assert again.settled == frozenset()
    assert (scene.layout.incident(1) / "exports" / "ckpt_007" / "receipt.json").is_file()


def test_the_summary_says_what_was_lost(scene: Scene) -> None:
    lost = scene.heal().facts["lost"]
    assert (lost["steps"], lost["tokens"]) == (35, 35 * 128)
    assert lost["seconds"] == pytest.approx(3.5)
    energy = scene.recipe.energy
    assert lost["kwh"] == pytest.approx(energy.devices * energy.device_kw * energy.pue * 3.5 / 3600)
    text = (scene.layout.incident(1) / "summary.md").read_text()
    assert "malignant.long" in text
    assert "Onset at step 291, verdict at step 302" in text
    assert "back to rescue_stage1_000270; steps 271 to 302 are not trained" in text
    assert "Lost: 35 steps, 4,480 tokens" in text


def test_killed_again_and_again_it_ends_the_same(scene: Scene) -> None:
    deaths = 0
    while scene.heal_and_die(rename=deaths):  # each life gets one rename further than the one before
        deaths += 1
    sweep(scene.layout.incident(1))
    receipt = scene.heal()
    assert deaths > 3
    assert receipt.facts["abandoned"] == ASIDE
    assert {path for path in scene.tree() if path.startswith(("checkpoints", "exports", "scores", "verified"))} == {
        f"checkpoints/rescue_stage1_{step:06d}/{file}" for step in (260, 270) for file in ("weights.bin", "receipt.json")
    }
    assert check_files(scene.layout.incident(1), receipt) == []


@pytest.mark.parametrize("rename", range(10))
def test_killed_once_anywhere_it_equals_the_unkilled(scene: Scene, rename: int) -> None:
    assert scene.heal_and_die(rename)
    sweep(scene.layout.incident(1))
    receipt = scene.heal()
    assert scene.heal() == receipt
    assert receipt.facts["abandoned"] == ASIDE
    assert receipt.facts["lost"]["steps"] == 35
    assert [f.path for f in receipt.files] == ["loss.svg", "records.jsonl", "summary.md"]


def test_going_on_abandons_nothing(scene: Scene) -> None:
    scene.facts = [scene.facts[0], scene.incident, IncidentDecided(incident=1, action="continue", who="ada")]
    receipt = scene.heal()
    assert receipt.facts["abandoned"] == []
    assert receipt.facts["lost"]["steps"] == 0
    assert "Decision by ada: continue." in (scene.layout.incident(1) / "summary.md").read_text()


def test_what_tells_the_spike_is_held_by_links_that_no_retention_removes(scene: Scene) -> None:
    receipt = scene.heal()
    assert receipt.facts["kept"] == {
        "pre": scene.decision.checkpoint,
        "verdict": "rescue_stage1_000305",
        "peak": "rescue_stage1_000300",
    }
    kept = scene.layout.kept(1)
    for name in receipt.facts["kept"].values():
        assert check_files(kept.checkpoint(name), read_receipt(kept.checkpoint(name))) == []
    weights = kept.checkpoint(scene.decision.checkpoint) / "weights.bin"
    assert weights.stat().st_nlink == 2  # it takes no room
    remove_folder(scene.layout.checkpoint(scene.decision.checkpoint))
    assert check_files(kept.checkpoint(scene.decision.checkpoint), read_receipt(kept.checkpoint(scene.decision.checkpoint))) == []
