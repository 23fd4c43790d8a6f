"""The GPU benchmark stands ready: without a GPU it says so, and on a CPU it compares the same contestants at a tiny size."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from trainer_run import MINI

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


def run(*arguments: str) -> str:
    ran = subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, timeout=240, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU: the benchmark would run")
def test_without_a_gpu_it_says_what_is_missing():
    assert "skipped: torch sees no CUDA device here" in run()


@pytest.mark.slow
def test_the_trainer_a_plain_loop_and_hugging_faces_begin_with_the_same_loss():
    names = ("ours auto", "plain auto", "trainer sdpa", "ours flash")
    table = run("--device", "cpu", "--recipe", MINI, "--steps", "1", "--contestants", *names)
    ours, plain, theirs, flash = table.splitlines()[3:7]
    assert "no peak is known of the device 'cpu'" in table
    assert "unknown" in ours  # no utilization of a device whose peak is unknown
    for other in (plain, theirs):
        assert float(ours.split()[-1]) == pytest.approx(float(other.split()[-1]), abs=2e-4)
    assert 'place.attention = "flash" does not go with a CPU' in flash
    assert "the first losses agree" in table
