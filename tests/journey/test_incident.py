"""A spike provoked for real: seen, stopped, gone back from, its data skipped or deferred, and nobody asked."""

import json
import signal

import numpy as np
import pytest
from machine import LONGER, MINI, Machine

from k2.recipe.load import load_recipe
from k2.run.ledger import IncidentClosed, IncidentDecided, IncidentOpened, StepsSkipped, read_facts
from k2.run.receipt import read_receipt
from k2.run.records import accepted_of, branches
from k2.watch.keeping import STATE_FILE, detector_at
from k2.watch.simulation import Costs, Hazards, Spike, simulate

pytestmark = pytest.mark.slow

# the optimizer is disturbed at step 61 of 120: its learning rate is multiplied for three steps
SPIKED = (*LONGER, "--set", "spikes.persistence_steps=8", "--set", "spikes.margin_steps=4")
FAULT = '\n[[faults]]\nstage = "stage1"\nfirst_step = 61\nsteps = 3\nlearning_rate_factor = 300.0\n'


def spiked_recipe(machine: Machine, fault: str) -> str:
    recipe = machine.root / "spiked.toml"
    recipe.write_text(MINI.read_text() + fault)
    return str(recipe)


def arguments(machine: Machine, *more: str, fault: str = FAULT) -> tuple[str, ...]:
    return ("run", spiked_recipe(machine, fault), "--run", "mini", "--place", str(machine.place), *SPIKED, *more)


@pytest.fixture(scope="module")
def healed(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """A run with an incident that nobody else disturbed."""
    here = Machine(tmp_path_factory.mktemp("healed"))
    done = here.k2(*arguments(here))
    assert done.returncode == 0, done.stderr[-4000:]
    return here


def test_the_spike_is_healed_without_anyone(healed: Machine) -> None:
    facts = read_facts(healed.layout("mini").ledger)
    opened = [f for f in facts if isinstance(f, IncidentOpened)]
    assert [f.kind for f in opened] == ["malignant.long"]
    assert 61 <= opened[0].onset_step <= 65
    assert opened[0].verdict_step <= opened[0].onset_step + 10
    [decided] = [f for f in facts if isinstance(f, IncidentDecided)]
    assert (decided.action, decided.checkpoint, decided.data, decided.who) == ("rollback", "rescue_stage1_000050", "skip", "policy")
    [skipped] = [f for f in facts if isinstance(f, StepsSkipped)]
    assert skipped.first_step == 51
    assert skipped.last_step >= 63
    assert any(isinstance(f, IncidentClosed) for f in facts)


def test_on_paper_the_same_steps_are_lost(healed: Machine) -> None:
    """The simulator lives through the same incident by the same policy: with a second a step its books count the run's own steps."""
    layout = healed.layout("mini")
    recipe, facts = load_recipe(str(layout.recipe)), read_facts(layout.ledger)
    [opened] = [f for f in facts if isinstance(f, IncidentOpened)]
    stages = {stage.name: branches(layout, facts, stage.name) for stage in recipe.stages}
    counted = sum(len(accepted_of(read, facts, stage)) for stage, read in stages.items())
    written = sum(len(branch) for read in stages.values() for branch in read.values())
    past_verdict = stages["stage1"][opened.attempt][-1].step - opened.verdict_step
    costs = Costs(step_seconds=1.0, saving_seconds=0.0, startup_seconds=0.0, reaction_steps=past_verdict)
    spike = Spike("stage1", opened.onset_step, opened.verdict_step - opened.onset_step + 1)
    life = simulate(recipe, costs, Hazards((spike,)), np.random.default_rng(0))
    assert (life.seconds["productive"], life.seconds["rework_spike"]) == (counted, written - counted)


def test_skipped_steps_are_not_trained_and_nothing_else_moves(healed: Machine) -> None:
    [skipped] = [f for f in read_facts(healed.layout("mini").ledger) if isinstance(f, StepsSkipped)]
    trained = sorted(step for stage, step in healed.losses("mini") if stage == "stage1")
    assert trained == [s for s in range(1, 121) if not skipped.first_step <= s <= skipped.last_step]
    status = healed.status("mini")
    assert status["state"] == "done"
    assert [c["step"] for c in status["checkpoints"]] == [40, 80, 120, 4]  # type: ignore[attr-defined, index]


def test_a_document_leads_to_its_step_and_back_on_both_branches(healed: Machine) -> None:
    """The spiked branch stays readable beside the one that went on; what was trained is what the raw text gives."""
    [skipped] = [f for f in read_facts(healed.layout("mini").ledger) if isinstance(f, StepsSkipped)]
    stage1 = json.loads(healed.k2("data", "order", "mini", "--json").stdout)["stages"][0]
    spiked, healthy = stage1["branches"]
    assert (spiked["abandoned_from"], spiked["stands_until"]) == (skipped.first_step, skipped.first_step - 1)
    assert (healthy["first_step"], healthy["stands_until"], healthy["abandoned_from"]) == (skipped.first_step, 120, None)
    assert stage1["skipped"] == [[skipped.first_step, skipped.last_step]]

    given_up = ("--stage", "stage1", "--step", str(skipped.first_step))
    assert seen(healed, *given_up) == []
    once = seen(healed, *given_up, "--attempt", str(spiked["attempt"]))
    assert {s["attempt"] for s in once} == {spiked["attempt"]}
    after = seen(healed, "--stage", "stage1", "--step", str(skipped.last_step + 1))
    assert {s["attempt"] for s in after} == {healthy["attempt"]}
    assert after[0] in seen(healed, "--document", str(after[0]["document"]))
    assert after[0] not in seen(healed, "--document", str(after[0]["document"]), "--until", "ckpt_001")

    verified = healed.k2("data", "verify", "mini", "--steps", "3", "--json")
    assert verified.returncode == 0, verified.stdout
    assert json.loads(verified.stdout)["rederived"]["rows"] >= 6


def seen(machine: Machine, *question: str) -> list[dict[str, object]]:
    done = machine.k2("data", "seen", "mini", *question, "--json")
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_the_evidence_is_kept_and_published(healed: Machine) -> None:
    layout = healed.layout("mini")
    folder, kept = layout.incident(1), layout.kept(1)
    assert (folder / "receipt.json").is_file()
    assert "malignant" in (folder / "summary.md").read_text()
    parts = read_receipt(folder).facts["kept"]
    assert set(parts) - {"peak"} == {"pre", "verdict"}  # a quick stop leaves one checkpoint past the onset: the verdict's
    assert all((kept.export(name) / "model.safetensors").is_file() for name in parts.values())
    rows = [json.loads(line) for line in (kept.window / "rows.jsonl").read_text().splitlines()]
    assert [row["loss"] for row in rows] == sorted((row["loss"] for row in rows), reverse=True)
    assert all(row["text"] and row["documents"] for row in rows)
    published = {path.name for path in (healed.root / "published" / "mini").iterdir()}
    assert {"spike_001", "ckpt_003", *(f"spike_001_{part}" for part in parts)} <= published
    assert "abandoned" in (folder / "healed.svg").read_text()


MOMENTS = (
    "watcher.verdict",  # the verdict has fallen, the trainer is not asked yet
    "attempt.ended",  # the trainer has ended, the ledger does not know it
    "verdict.recorded",  # incident and decision are in the ledger, nothing is healed
    "heal.begin",
    "heal.moved",  # the first abandoned checkpoint lies in the incident's folder, others do not
    "heal.kept",  # the evidence has its receipt
    "heal.closed",
    "relaunch.recorded",  # the next attempt is in the ledger, its trainer was never started
)


def test_killed_at_every_moment_of_the_incident_it_ends_the_same(machine: Machine, healed: Machine) -> None:
    """One run, its driver (flow and watcher with it) killed as by `kill -9` at each place in turn, and each time resumed."""
    command = arguments(machine)
    for place in MOMENTS:
        killed = machine.k2(*command, K2_FAULTS=json.dumps([{"at": place, "do": "SIGKILL"}]))
        assert killed.returncode == -signal.SIGKILL, (place, killed.stderr[-2000:])
        command = ("resume", "mini")
    done = machine.k2("resume", "mini")
    assert done.returncode == 0, done.stderr[-4000:]
    assert machine.losses("mini") == healed.losses("mini")
    facts = read_facts(machine.layout("mini").ledger)
    assert sum(isinstance(f, IncidentOpened) for f in facts) == sum(isinstance(f, IncidentDecided) for f in facts) == 1


def test_the_detector_in_a_checkpoint_knows_what_a_replay_knows(healed: Machine) -> None:
    layout = healed.layout("mini")
    facts, recipe = read_facts(layout.ledger), load_recipe(str(layout.recipe))
    for name, step in (("ckpt_001", 40), ("ckpt_002", 80), ("ckpt_003", 120)):
        replayed = detector_at(recipe, layout, facts, "stage1", step + 1, checkpoint=None)
        assert detector_at(recipe, layout, facts, "stage1", step + 1, checkpoint=name).state() == replayed.state()
        assert (layout.checkpoint(name) / STATE_FILE).is_file()


def test_a_verdict_in_the_last_steps_of_a_stage_is_healed_too(machine: Machine) -> None:
    """The verdict falls with the stage's last record, so nobody can stop the trainer: what it saved last is abandoned, never settled."""
    done = machine.k2(*arguments(machine, fault=FAULT.replace("first_step = 61", "first_step = 112")))
    assert done.returncode == 0, done.stderr[-4000:]
    layout = machine.layout("mini")
    [opened] = [f for f in read_facts(layout.ledger) if isinstance(f, IncidentOpened)]
    assert opened.verdict_step == 120
    [closed] = [f for f in read_facts(layout.ledger) if isinstance(f, IncidentClosed)]
    assert "ckpt_003" in closed.abandoned
    assert not (layout.incident(1) / "published").exists()
    assert machine.status("mini")["state"] == "done"


def test_a_human_is_asked_where_the_recipe_says_so(machine: Machine) -> None:
    asked = machine.k2(*arguments(machine, "--set", 'spikes.mode="confirm"'))
    assert asked.returncode == 4, asked.stderr[-4000:]
    assert machine.status("mini")["state"] == "waiting"
    assert machine.k2("resume", "mini").returncode == 4
    assert machine.k2("decide", "mini", "1", "rollback").returncode == 0
    second = machine.k2("decide", "mini", "1", "continue")
    assert second.returncode == 1
    resumed = machine.k2("resume", "mini")
    assert resumed.returncode == 0, resumed.stderr[-4000:]
    assert machine.status("mini")["state"] == "done"
