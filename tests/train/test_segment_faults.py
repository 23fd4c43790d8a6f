"""Disturbances of a segment: killed, damaged, out of room, skipped, struck by a declared fault.

The oracle is the unbroken run of the same recipe: the accepted lineage must equal it as hex floats.
"""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from trainer_run import alive, new_run, wait_until

from k2.checkpoint.select import set_bad_aside, verify
from k2.run.control import request_stop
from k2.run.holdings import held_checkpoints
from k2.run.ledger import StepsSkipped, append_facts
from k2.run.receipt import read_receipt
from k2.train.schedule import learning_rate

pytestmark = pytest.mark.slow

LONG = (  # 100 steps, long enough to be hit in the middle
    "stages.stage1.chunks=2",
    "stages.stage1.steps_per_chunk=50",
    "checkpoints.rescue_every_steps=10",
    "stages.stage1.mix.prose.repeat=30",
)
LAYOUTS = {
    "pp2 fp32": (),
    "dp2 bf16": ("layout.pipeline=1", "layout.data=2", "layout.precision='bf16'"),
}
RANKS_END_SECONDS = 10.0


@pytest.fixture(scope="module", params=LAYOUTS.values(), ids=LAYOUTS.keys())
def overrides(request):
    return (*LONG, *request.param)


@pytest.fixture(scope="module")
def unbroken(overrides, tmp_path_factory):
    run = new_run(tmp_path_factory.mktemp("unbroken") / "mini", *overrides)
    run.train()
    assert len(run.lineage()) == 100
    return run


@pytest.fixture
def run(overrides, tmp_path):
    return new_run(tmp_path / "mini", *overrides)


def test_killed_with_its_whole_group_it_resumes_to_the_same_losses(unbroken, run):
    started = run.start()
    wait_until(run.trained_to(started.attempt, 23))
    started.kill_group()
    assert 23 <= run.records(1)[-1].step < 100
    run.resume()
    assert run.lineage() == unbroken.lineage()
    for name in ("ckpt_001", "ckpt_002"):
        assert state_digests(run, name) == state_digests(unbroken, name)


def test_when_a_rank_dies_the_others_end_and_the_run_resumes(unbroken, run):
    started = run.start()
    wait_until(run.trained_to(started.attempt, 15))
    ranks = started.ranks()
    began = time.monotonic()
    os.kill(ranks[-1], signal.SIGKILL)
    code, _ = started.wait()
    assert time.monotonic() - began <= RANKS_END_SECONDS
    assert code != 0
    assert not any(alive(rank) for rank in ranks)
    run.resume()
    assert run.lineage() == unbroken.lineage()


def test_a_damaged_checkpoint_is_set_aside_and_an_older_one_used(unbroken, run):
    started = run.start()
    wait_until((run.layout.checkpoint("rescue_stage1_000020") / "receipt.json").exists)
    started.kill_group()
    newest = held_checkpoints(run.recipe, run.layout)[-1].name
    damage(run.layout.checkpoint(newest) / "state" / "rank_00001.safetensors")
    _, refusal = run.start("stage1", 91, newest).wait()
    assert "does not verify" in refusal
    rejected = set_bad_aside(run.layout, newest)
    assert [bad.name for bad in rejected] == [newest]
    assert (run.layout.quarantine / newest).is_dir()
    run.resume()
    assert run.lineage() == unbroken.lineage()


def state_digests(run, name):
    """Of weights, moments and counters of every rank."""
    return {file.path: file.sha256 for file in read_receipt(run.layout.checkpoint(name)).files if "state/" in file.path}


def damage(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_full_disk_ends_the_segment_and_loses_nothing_earned(tmp_path):
    run = new_run(tmp_path / "mini", "model.hidden=64", "model.ffn=176")
    started = run.start()
    resource.prlimit(started.process.pid, resource.RLIMIT_FSIZE, (100_000, 100_000))  # inherited by the ranks
    code, errors = started.wait()
    assert code != 0
    assert "ALARM: checkpoint rescue_stage1_000004 could not be saved" in errors  # between chunk ends training goes on without it
    assert errors.count("refuses: checkpoint ckpt_001 could not be saved") == 1
    assert "earlier checkpoints are untouched" in errors
    assert list(run.layout.checkpoints.iterdir()) == []
    run.train()  # with room again: the attempt's records before the failure are replaced
    assert [step for step, _, _ in run.lineage()] == list(range(1, 25))


def test_no_checkpoint_stands_without_the_records_before_it(tmp_path):
    """The records are on the disk before the checkpoint is: where they cannot be, it is not saved."""
    script = Path(__file__).with_name("unsyncable_records.py")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "1", str(script), str(tmp_path / "mini")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    ran = subprocess.run(launcher, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "step records could not be forced to the disk" in ran.stdout
    assert list((tmp_path / "mini" / "checkpoints").glob("*")) == []


def test_skipped_steps_are_not_trained_and_move_nothing(tmp_path):
    run = new_run(tmp_path / "mini")
    append_facts(run.layout.ledger, StepsSkipped(stage="stage1", first_step=7, last_step=13, who="test", why="test"))
    run.train()
    records = {record.step: record for record in run.records(1)}
    assert sorted(records) == [*range(1, 7), *range(14, 25)]
    assert records[14].lr == learning_rate(run.recipe.stage("stage1").schedule, 14, 24)
    assert records[14].tokens == 7 * 128
    held = {c.name: c for c in held_checkpoints(run.recipe, run.layout)}
    assert (held["ckpt_001"].step, held["ckpt_001"].tokens) == (8, 6 * 128)  # its chunk ends inside of the window
    assert "rescue_stage1_000012" not in held
    layers = [state_digests(run, "ckpt_001"), state_digests(run, "rescue_stage1_000004")]
    assert layers[0] != layers[1]


def test_a_declared_fault_strikes_at_its_steps(tmp_path):
    fault = '[{stage = "stage1", first_step = 5, steps = 2, learning_rate_factor = 40.0}]'
    run = new_run(tmp_path / "mini", f"faults={fault}")
    run.train()
    schedule = run.recipe.stage("stage1").schedule
    factors = [record.lr / learning_rate(schedule, record.step, 24) for record in run.records(1)]
    assert factors == pytest.approx([1.0] * 4 + [40.0] * 2 + [1.0] * 18)


def test_what_does_not_fit_the_run_is_refused_before_training(tmp_path):
    run = new_run(tmp_path / "mini")
    run.train()
    code, errors = run.start("stage1", 9, "ckpt_001").wait()
    assert code != 0
    assert "ckpt_002" in errors
    assert run.records(2) == []
    assert verify(run.layout, "ckpt_002") == []


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    fault = '[{stage = "stage1", first_step = 6, steps = 1, learning_rate_factor = 1e300}]'
    run = new_run(tmp_path / "mini", f"faults={fault}")
    code, errors = run.start().wait()
    assert code != 0
    assert errors.count("ckpt_001 is not saved") == 1
    assert run.checkpoints() == ["rescue_stage1_000004"]


def test_a_checkpoint_of_other_settings_is_refused_with_what_differs(tmp_path):
    other, run = new_run(tmp_path / "other" / "mini", "optimizer.beta2=0.99", "data.held_out=0.3"), new_run(tmp_path / "mini")
    request_stop(other.layout, attempt=1, reason="test")  # one step will do
    other.train()
    run.layout.checkpoints.mkdir()
    other.layout.checkpoint("rescue_stage1_000001").rename(run.layout.checkpoint("rescue_stage1_000001"))
    code, errors = run.start("stage1", 2, "rescue_stage1_000001").wait()
    assert code != 0
    assert "what differs: data.held_out: 0.3 -> 0.15; optimizer.beta2: 0.99 -> 0.95; tokenizer: " in errors
    assert "; chunks: " in errors
