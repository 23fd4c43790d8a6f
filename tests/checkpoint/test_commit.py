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
    assert [file.path for file in receipt.files] == ["state/rank_0.pt", "state/rank_1.pt"]
    assert check_files(outcome[0] / "good", receipt) == [
        "state/rank_1.pt: its content does not match the digest in its receipt"
    ]  # the script damaged it


def test_both_ranks_read_the_receipt(outcome):
    assert [seen["good"] for seen in outcome[1]] == [{"step": 8}, {"step": 8}]


def test_a_full_disk_on_one_rank_leaves_nothing(outcome):
    root, seen = outcome
    assert not (root / "no_room").exists()
    assert list(root.glob(".tmp-*")) == []
    for rank in seen:
        assert "no_room could not be saved: No space left on device" in rank["no room"]
        assert "earlier checkpoints are untouched" in rank["no room"]


def test_nothing_finished_is_overwritten(outcome):
    assert all("never overwritten" in seen["again"] for seen in outcome[1])


def test_one_ranks_refusal_is_everybodys(outcome):
    assert [seen["refused"] for seen in outcome[1]] == ["rank 1 refuses"] * 2


def test_one_ranks_flag_is_seen_by_all(outcome):
    assert all(seen["flag of rank 1"] and not seen["no flag"] for seen in outcome[1])


def test_damage_is_found_whoever_reads_the_file(outcome):
    assert all("state/rank_1.pt" in seen["damaged"] and "does not verify" in seen["damaged"] for seen in outcome[1])


def test_what_has_no_receipt_does_not_exist(outcome):
    assert all("no receipt" in seen["missing"] for seen in outcome[1])
