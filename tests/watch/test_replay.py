"""Recorded curves in every form give the same events."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from spike_families import LONG, calm, family, records, verdicts

from k2.recipe.spikes import Spikes
from k2.watch.replay import CurveRefused, replay


def test_every_form_of_a_curve_gives_the_events_of_its_records(tmp_path: Path) -> None:
    loss = family("long", LONG, 1)
    rows = [f"{i + 1},{float(x)!r},{0.4}\n" for i, x in enumerate(loss)]
    (tmp_path / "a.csv").write_text("step,loss,grad_norm\n" + "".join(rows))
    with gzip.open(tmp_path / "a.csv.gz", "wt") as file:
        file.write("step,loss,grad_norm\n" + "".join(rows))
    (tmp_path / "a.jsonl").write_text("".join(r.line() for r in records(loss)))
    (tmp_path / "b.jsonl").write_text("".join(json.dumps({"step": r.step, "loss": r.loss, "grad_norm": 0.4}) + "\n" for r in records(loss)))
    expected = [e.shown() | {"stage": ""} for e in verdicts(loss, LONG)]
    assert expected[-1]["class"] == "malignant.long"
    for name in ("a.csv", "a.csv.gz", "a.jsonl", "b.jsonl"):
        assert [e.shown() | {"stage": ""} for e in replay(tmp_path / name, Spikes())] == expected, name


def test_a_curve_without_norms_and_with_gaps_and_nan(tmp_path: Path) -> None:
    loss = [*calm(LONG, np.random.default_rng(0))[:900], float("nan"), float("nan"), float("inf")]
    (tmp_path / "a.csv").write_text("step,loss\n" + "".join(f"{10 * i},{x}\n" for i, x in enumerate(loss)) + "10000,\n")
    events = list(replay(tmp_path / "a.csv", Spikes()))
    assert [(e.kind, e.onset_step, e.small_grad_fraction) for e in events if e.malignant] == [("nonfinite", 9000, None)]


def test_the_column_resumed_begins_a_new_attempt(tmp_path: Path) -> None:
    loss = calm(LONG, np.random.default_rng(0))
    loss[901:] += 8.6
    rows = "".join(f"{i},{x},{int(i == 900)}\n" for i, x in enumerate(loss))
    (tmp_path / "a.csv").write_text("step,loss,resumed\n" + rows)
    assert [(e.kind, e.verdict_step) for e in replay(tmp_path / "a.csv", Spikes()) if e.malignant] == [("bad_resume", 902)]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.txt", b"1 2", r"a\.txt is no recorded curve: give a \.csv"),
        ("a.csv", b"step,value\n1,2\n", r"has no column loss; its first line must name step and loss"),
        ("a.csv", b"step,loss\n1,2\n2,high\n", r"line 3: .*loss a number"),
        ("a.jsonl", b'{"step": 1, "loss": 2}\n{"step"', r"line 2, is no JSON"),
        ("a.jsonl", b"[1, 2]\n", r"line 1, is no object"),
        ("a.jsonl", b'{"loss": 2}\n', r"line 1: KeyError\('step'\)"),
        ("a.csv.gz", b"not gzip", r"cannot be read"),
        ("a.csv", b"step,loss\n1,\xff\xfe\n", r"cannot be read"),
    ],
)
def test_what_is_no_curve_says_what_is_wrong(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CurveRefused, match=says):
        list(replay(tmp_path / name, Spikes()))


def test_a_resume_that_goes_back_leaves_the_abandoned_steps_out(tmp_path: Path) -> None:
    """The reference is that of the step gone back to, and the first step trained again is held against its record."""
    loss = calm(LONG, np.random.default_rng(3))
    loss[1150:] += 0.5

    def curve(again: np.ndarray) -> Path:
        first = "".join(f"{i + 1},{x},0\n" for i, x in enumerate(loss[:1300]))
        second = "".join(f"{i + 1101},{x},{int(i == 0)}\n" for i, x in enumerate(again))
        (tmp_path / "a.csv").write_text("step,loss,resumed\n" + first + second)
        return tmp_path / "a.csv"

    same = calm(LONG, np.random.default_rng(3))[1100:]
    healthy = list(replay(curve(same), Spikes()))
    assert [(e.kind, e.attempt) for e in healthy if e.malignant] == [("malignant.long", 1)]
    other = list(replay(curve(same * 1.01), Spikes()))
    assert [(e.kind, e.attempt, e.verdict_step) for e in other if e.malignant][1:] == [("bad_resume", 2, 1101)]
    again = same.copy()
    again[60:] += 0.5
    spiked = [(e.kind, e.attempt, e.onset_step) for e in replay(curve(again), Spikes()) if e.malignant]
    assert spiked[1:] == [("malignant.long", 2, 1161)]
