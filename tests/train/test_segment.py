"""The trainer's process on a prepared run: what it writes, how it stops, and that a resumed run equals the unbroken one."""

import signal
from dataclasses import replace

import pytest
from trainer_run import new_run, wait_until

from k2.checkpoint.select import verify
from k2.run.control import request_stop
from k2.run.holdings import held_checkpoints
from k2.run.ledger import UpdatesTempered, append_facts
from k2.run.receipt import read_receipt
from k2.train.schedule import learning_rate


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    run = new_run(tmp_path_factory.mktemp("unbroken") / "mini")
    run.train()
    return run


def test_one_record_a_step(unbroken):
    stage = unbroken.recipe.stage("stage1")
    records = unbroken.records(1)
    assert [record.step for record in records] == list(range(1, 25))
    assert [record.lr for record in records] == [learning_rate(stage.schedule, step, 24) for step in range(1, 25)]
    assert [record.tokens for record in records] == [128 * step for step in range(1, 25)]
    assert not any(record.skipped_update for record in records)
    assert records[-1].loss < records[0].loss - 0.5


def test_a_checkpoint_at_every_chunk_end_and_rescues_between(unbroken):
    held = [(c.name, c.kind, c.step) for c in held_checkpoints(unbroken.recipe, unbroken.layout)]
    assert held == [
        ("rescue_stage1_000004", "rescue", 4),
        ("ckpt_001", "chunk", 8),
        ("rescue_stage1_000012", "rescue", 12),
        ("ckpt_002", "chunk", 16),
        ("rescue_stage1_000020", "rescue", 20),
        ("ckpt_003", "chunk", 24),
    ]
    assert all(verify(unbroken.layout, name) == [] for name, _, _ in held)
    assert unbroken.checkpoints() == sorted(name for name, _, _ in held)


def test_the_receipt_says_where_the_checkpoint_stands(unbroken):
    receipt = read_receipt(unbroken.layout.checkpoint("ckpt_002"))
    assert receipt.kind == "checkpoint"
    stated = {name: receipt.facts[name] for name in ("kind", "stage", "step", "tokens", "attempt", "position", "precision")}
    assert stated == {"kind": "chunk", "stage": "stage1", "step": 16, "tokens": 2048, "attempt": 1, "position": 1, "precision": "fp32"}
    assert receipt.inputs["chunks"] == read_receipt(unbroken.layout.all_chunks).digest


def test_stopped_on_request_and_resumed_it_equals_the_unbroken_run(unbroken, tmp_path, monkeypatch):
    run = new_run(tmp_path / "mini")
    request_stop(run.layout, attempt=1, reason="test")  # stands from the start: one step is trained
    (tmp_path / "sitecustomize.py").write_text('import atexit, os\nif "LOCAL_RANK" in os.environ: atexit.register(os.abort)\n')
    with monkeypatch.context() as aborting:  # what threads of torch do to Python's end now and then, here always
        aborting.setenv("PYTHONPATH", str(tmp_path))
        run.train()
    assert [record.step for record in run.records(1)] == [1]
    assert [(c.name, c.kind) for c in held_checkpoints(run.recipe, run.layout)] == [("rescue_stage1_000001", "stop")]
    run.resume()  # the request names attempt 1 and does not concern attempt 2
    assert run.lineage() == unbroken.lineage()
    chain = [read_receipt(run.layout.checkpoint(c.name)) for c in held_checkpoints(run.recipe, run.layout)]
    assert [later.inputs["parent"] for later in chain[1:]] == [earlier.digest for earlier in chain[:-1]]


def test_stage_2_goes_on_from_stage_1(unbroken):
    run = replace(unbroken)
    run.train("stage2", 1, "ckpt_003")
    records = run.records(2, "stage2")
    assert [record.step for record in records] == [1, 2, 3, 4]
    assert [record.tokens for record in records] == [3072 + 256 * step for step in range(1, 5)]
    assert records[0].loss < 5.7  # as trained as stage 1 left it, not 6.1
    assert read_receipt(run.layout.checkpoint("ckpt_004")).facts["stage"] == "stage2"


@pytest.mark.slow
def test_sigterm_asks_for_a_stop(tmp_path):
    run = new_run(tmp_path / "mini", "stages.stage1.steps_per_chunk=60", "stages.stage1.mix.prose.repeat=30")
    started = run.start()
    wait_until(run.trained_to(1, 5))
    started.process.send_signal(signal.SIGTERM)
    started.wait()
    last = run.records(1)[-1].step
    assert last < run.recipe.stage("stage1").steps
    assert held_checkpoints(run.recipe, run.layout)[-1].step == last


@pytest.mark.slow
def test_tempered_steps_have_smaller_updates_and_no_others(unbroken, tmp_path):
    """The ledger's remedy reaches the optimizer: a clip of a hundredth at step 2 alone, half the rate at steps 3 and 4 alone."""
    run = new_run(tmp_path / "mini")
    append_facts(
        run.layout.ledger,
        UpdatesTempered(stage="stage1", first_step=2, last_step=2, clip_factor=0.01, who="ada", why="test"),
        UpdatesTempered(stage="stage1", first_step=3, last_step=4, learning_rate_factor=0.5, who="ada", why="test"),
    )
    run.train()
    usual, changed = unbroken.records(1), run.records(1)
    assert [c.lr / u.lr for u, c in zip(usual, changed, strict=True)][:6] == [1, 1, 0.5, 0.5, 1, 1]
    assert [c.loss == u.loss for u, c in zip(usual, changed, strict=True)][:3] == [True, True, False]
