"""The commit by two ranks: all or nothing, and one problem for all."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from k2.run.receipt import check_files, read_receipt


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    root = tmp_path_factory.mktemp("commits")
    script = Path(__file__).with_name("commit_scenarios.py")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script), str(root)]
    ran = subprocess.run(launcher, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr
    return root, [json.loads((root / f"seen_{rank}.json").read_text()) for rank in (0, 1)]


def test_every_ranks_files_are_in_the_receipt(outcome):
    receipt = read_receipt(outcome[0] / "good")
    assert [file.path for file in receipt.files] == ["recipe.toml", "state/rank_00000.safetensors", "state/rank_00001.safetensors"]
    assert [line.partition(":")[0] for line in check_files(outcome[0] / "good", receipt)] == [
        "state/rank_00001.safetensors"
    ]  # the script damaged it


def test_the_receipt_states_what_was_saved(outcome):
    facts = {"step": 8, "format": 2, "updates": 8, "not_finite": 0}
    for seen in outcome[1]:
        assert {name: seen["good"][name] for name in facts} == facts
        assert seen["good"]["squares"] == pytest.approx({"master": 1000, "exp_avg": 1000, "exp_avg_sq": 1000})  # padding is not counted


def test_rank_0_has_the_receipt_when_all_have_settled(outcome):
    assert [seen["sealed on"] for seen in outcome[1]] == [True, False]


def test_a_full_disk_on_one_rank_leaves_nothing(outcome):
    for rank in outcome[1]:
        assert rank["no room"].startswith("NotSaved: checkpoint no_room could not be saved: ")
        assert "No space left on device" in rank["no room"]
        assert "earlier checkpoints are untouched" in rank["no room"]
        assert rank["room again"] == ""
        assert rank["left"] == ["good", "room_again"]


def test_an_attempt_that_was_superseded_commits_nothing(outcome):
    assert all("superseded by a newer one" in seen["superseded"] for seen in outcome[1])


def test_what_is_not_finite_on_one_rank_is_not_saved_at_all(outcome):
    assert all(seen["infinite"].startswith("NotFinite: after step 8 1500 weights or moments") for seen in outcome[1])


def test_nothing_finished_is_overwritten(outcome):
    assert all("never overwritten" in seen["again"] for seen in outcome[1])


def test_one_ranks_refusal_is_everybodys(outcome):
    assert [seen["refused"] for seen in outcome[1]] == ["AgreedProblem: rank 1 refuses"] * 2


def test_hosts_that_see_different_things_are_told_which(outcome):
    assert all(seen["differ"].startswith("the hosts differ in the order: all must") for seen in outcome[1])


def test_one_ranks_flag_is_seen_by_all(outcome):
    assert all(seen["flag of rank 1"] and not seen["no flag"] and seen["total"] == [2.0, 1.0] for seen in outcome[1])


def test_damage_is_found_whoever_reads_the_file(outcome):
    assert all("rank_00001.safetensors" in seen["damaged"] and "does not verify" in seen["damaged"] for seen in outcome[1])


def test_what_has_no_receipt_does_not_exist(outcome):
    assert all("no receipt" in seen["missing"] for seen in outcome[1])
