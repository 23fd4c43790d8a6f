"""What is wrong is said in one paragraph with the contract's exit code, and nothing earned is lost."""

import subprocess
from pathlib import Path

import pytest
from machine import K2, LONGER, PARITY_NATS, Machine, largest_difference

pytestmark = pytest.mark.slow


def assert_one_paragraph(text: str) -> None:
    assert "Traceback" not in text
    assert text.count("\nk2: ") + text.startswith("k2: ") == 1


def corrupt(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def stopped_run(machine: Machine) -> None:
    machine.stop_at("mini", 45, *machine.run_mini("mini", *LONGER))


def test_a_corrupt_checkpoint_is_set_aside_and_an_older_one_used(machine: Machine, reference: Machine) -> None:
    stopped_run(machine)
    layout = machine.layout("mini")
    newest = max(layout.checkpoints.iterdir(), key=lambda p: p.stat().st_mtime)
    corrupt(max((p for p in newest.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size))
    resumed = machine.k2("resume", "mini")
    assert resumed.returncode == 0, resumed.stderr[-4000:]
    assert f"{newest.name} does not verify and is set aside" in resumed.stderr
    assert (layout.quarantine / newest.name).is_dir() or any(newest.name in p.name for p in layout.quarantine.iterdir())
    assert machine.losses("mini") == reference.losses("mini")


def test_a_truncated_shard_stops_training_and_keeps_what_is_there(machine: Machine) -> None:
    stopped_run(machine)
    chunk = machine.layout("mini").chunk("stage1", 2)
    whole = chunk.read_bytes()
    chunk.write_bytes(whole[:-100])
    earned = machine.losses("mini")
    refused = machine.k2("resume", "mini")
    assert refused.returncode == 1
    assert_one_paragraph(refused.stderr)
    assert "chunk_002.bin" in refused.stderr
    assert earned.items() <= machine.losses("mini").items()
    chunk.write_bytes(whole)
    assert machine.k2("resume", "mini").returncode == 0


def test_a_full_disk_is_said_and_loses_nothing(machine: Machine, reference: Machine) -> None:
    stopped_run(machine)
    earned = machine.losses("mini")
    process = subprocess.Popen(
        ["prlimit", "--fsize=49152", K2, "resume", "mini"],  # a checkpoint's largest file has 59 kB
        env=machine.environment(),
        cwd=machine.root,
        stderr=subprocess.PIPE,
        text=True,
    )
    machine.children.append(process)
    _, err = process.communicate(timeout=200)
    assert process.returncode == 1
    assert_one_paragraph(err)
    assert "make room and resume the run" in err
    assert earned.items() <= machine.losses("mini").items()
    resumed = machine.k2("resume", "mini")
    assert resumed.returncode == 0, resumed.stderr[-4000:]
    assert machine.losses("mini") == reference.losses("mini")


def test_a_recipe_changed_under_a_run_is_refused_and_other_ranks_are_not(machine: Machine, reference: Machine) -> None:
    stopped_run(machine)
    other = machine.k2(*machine.run_mini("mini", *LONGER, "--set", "optimizer.clip=0.5"))
    assert other.returncode == 2
    assert "optimizer.clip: 1.0 -> 0.5" in other.stderr
    layout = machine.layout("mini")
    recipe = layout.recipe.read_text()
    layout.recipe.write_text(recipe.replace("clip = 1.0", "clip = 0.5"))
    edited = machine.k2("resume", "mini")
    assert edited.returncode == 2
    assert "ckpt_001/recipe.toml: optimizer.clip: 1.0 -> 0.5" in edited.stderr
    layout.recipe.write_text(recipe)
    resumed = machine.k2("resume", "mini", "--world", "pp1dp2tp1mb1")
    assert resumed.returncode == 0, resumed.stderr[-4000:]
    losses = machine.losses("mini")
    assert losses.keys() == reference.losses("mini").keys()
    assert 0 < largest_difference(losses, reference.losses("mini")) <= PARITY_NATS
