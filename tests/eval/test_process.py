"""The evaluator as a process: questions on its input, one JSON line each on its output and nothing else."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from k2.eval.__main__ import own_output
from k2.run.layout import RunLayout
from k2.run.receipt import find_receipt


def run_evaluator(layout: RunLayout, questions: list[str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "k2.eval", str(layout.root), *arguments]
    environment = {"PATH": os.environ["PATH"], "HOME": str(layout.root), "OMP_NUM_THREADS": "1"}
    asked = "".join(f"{q}\n" for q in questions)
    return subprocess.run(command, input=asked, capture_output=True, text=True, check=False, timeout=240, env=environment)


def test_it_answers_question_by_question_and_ends_with_its_input(layout: RunLayout, save_checkpoint: Callable[..., None]) -> None:
    save_checkpoint("ckpt_001")
    questions = [
        '{"id": 1, "duty": "evaluated", "checkpoint": "ckpt_001"}',
        '{"id": 2, "duty": "exported", "checkpoint": "ckpt_001"}',
        '{"id": 3, "duty": "evaluated", "checkpoint": "ckpt_001"}',
        '{"id": 4, "duty": "exported", "checkpoint": "ckpt_999"}',
        '{"id": 5, "duty": "exported", "checkpoint": "../../etc"}',
    ]
    done = run_evaluator(layout, questions)
    assert done.returncode == 0, done.stderr
    ready, early, exported, scored, absent, outside = (json.loads(line) for line in done.stdout.splitlines())
    assert ready["ready"] is True
    assert ready["seconds"] > 0
    assert (early["id"], early["ok"], early["permanent"]) == (1, False, True)
    assert "exports/ckpt_001 does not exist" in early["error"]
    assert exported == {"id": 2, "ok": True, "receipt": str(layout.export("ckpt_001"))}
    assert scored == {"id": 3, "ok": True, "receipt": str(layout.scores("ckpt_001"))}
    assert (absent["id"], absent["ok"], absent["permanent"]) == (4, False, True)
    assert (outside["id"], outside["ok"]) == (None, False)
    assert find_receipt(layout.scores("ckpt_001")) is not None
    assert not (Path(layout.root) / ".cache").exists()  # nothing is left in the home folder


@pytest.mark.slow
def test_named_checkpoints_are_scored_and_their_rows_printed(layout: RunLayout, save_checkpoint: Callable[..., None]) -> None:
    save_checkpoint("ckpt_001")
    done = run_evaluator(layout, [], "--checkpoint", "ckpt_001", "--suite", "k2_tiny")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == 10
    assert {"checkpoint", "stage", "task", "shots", "metric", "value", "stderr", "samples"} <= rows[0].keys()


def test_a_suite_that_does_not_ship_is_refused(layout: RunLayout) -> None:
    done = run_evaluator(layout, [], "--checkpoint", "ckpt_001", "--suite", "k2_all")
    assert (done.returncode, done.stdout) == (2, "")
    assert "'k2_all' is not one of the shipped suites: k2_21, k2_tiny" in done.stderr


def test_what_libraries_print_never_reaches_the_answers(capfd: pytest.CaptureFixture[str]) -> None:
    with own_output() as answers:
        print("printed by Python", flush=True)
        os.write(1, b"written below Python\n")
        print("an answer", file=answers)
    print("afterwards")
    out, err = capfd.readouterr()
    assert out == "an answer\nafterwards\n"
    assert "printed by Python" in err
    assert "written below Python" in err
