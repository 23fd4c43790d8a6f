"""What a run shows in the UI harms no run."""

import math
import threading
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest

from flows.artifacts import Board, Poster, artifact_key
from flows.sketch import curve_markdown, curve_svg, incident_markdown, score_table
from k2.eval.scores import ScoreRow
from k2.recipe.load import load_recipe
from k2.run.layout import RunLayout
from k2.run.ledger import IncidentDecided, IncidentOpened
from k2.run.records import StepRecord

RECIPE = load_recipe(str(Path(__file__).parents[1] / "mini.toml"))
RECORDS = [StepRecord(1, "stage1", n, 8 / n, 1.0, 1e-3, 128 * n, 0.1) for n in range(1, 25)]
INCIDENT = IncidentOpened(
    incident=1, stage="stage1", attempt=1, kind="malignant", onset_step=5, verdict_step=9, evidence={"rise_nats": 1.25}
)
DECISION = IncidentDecided(incident=1, action="rollback", checkpoint="ckpt_001", data="skip")


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a server were there; whatever is then asked of it fails."""
    monkeypatch.setattr("flows.artifacts.server_answers", lambda: True)


def test_keys_are_what_prefect_takes() -> None:
    assert artifact_key("k2_tiny.1", "loss") == "k2-tiny-1-loss"


def test_without_a_server_nothing_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    board = Board(RECIPE, RunLayout(tmp_path / "run"))
    begun = time.monotonic()
    for record in RECORDS:
        board.show_progress(record)
    board.show_curve()
    board.show_scores()
    board.show_incident(INCIDENT, DECISION)
    board.show_page()
    assert time.monotonic() - begun < 5


@pytest.mark.usefixtures("answering")
def test_of_the_same_key_only_the_newest_waits_and_an_error_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    poster, started, gate, seen = Poster(), threading.Event(), threading.Event(), []

    def first() -> None:
        started.set()
        gate.wait(10)
        raise ConnectionError("the server is gone")

    def fail() -> None:
        raise ConnectionError("still")

    poster.post("curve", first)
    assert started.wait(10)
    for number in range(5):
        poster.post("curve", lambda number=number: seen.append(number))  # type: ignore[misc]
    poster.post("scores", fail)
    gate.set()
    assert poster.flush(10)
    assert seen == [4]
    assert [record.message for record in caplog.records] == [
        "artifacts cannot be posted (ConnectionError: the server is gone); the run goes on"
    ]


@pytest.mark.usefixtures("answering")
def test_posting_does_not_wait() -> None:
    poster, gate = Poster(), threading.Event()
    begun = time.monotonic()
    poster.post("slow", lambda: gate.wait(20) and None)
    assert time.monotonic() - begun < 2
    assert not poster.flush(0.05)
    gate.set()
    assert poster.flush(10)


def test_the_curve_is_an_image_and_a_table() -> None:
    text = curve_markdown(RECORDS)
    assert "](data:image/svg+xml;base64," in text
    assert "| stage1 | 1 to 2 | 6.0000 |" in text
    assert curve_markdown([]) == "No step is trained yet."


@pytest.mark.parametrize(
    "losses", [[], [3.0], [3.0, 3.0], [5.0, math.nan, math.inf, 4.0], [math.nan], [9 - n / 1e5 for n in range(300_000)]]
)
def test_any_curve_can_be_drawn(losses: list[float]) -> None:
    svg = curve_svg(losses)
    line = ElementTree.fromstring(svg).find("{http://www.w3.org/2000/svg}polyline")
    assert line is not None
    assert "nan" not in svg
    assert len(line.attrib["points"].split()) <= 620


def test_scores_stand_one_checkpoint_a_row() -> None:
    common = {"stage": "stage1", "step": 8, "tokens": 1024, "suite": "tiny", "shots": 0, "samples": 50, "higher_is_better": True}
    rows = [
        ScoreRow.model_validate({"checkpoint": "ckpt_001", "task": "sums", "metric": "acc", "value": 0.25, "stderr": 0.01} | common),
        ScoreRow.model_validate({"checkpoint": "ckpt_001", "task": "bytes", "metric": "bits", "value": 2.5, "stderr": None} | common),
    ]
    assert score_table(rows) == [
        {"checkpoint": "ckpt_001", "stage": "stage1", "tokens": "1,024", "sums acc": "0.25 ± 0.010", "bytes bits": "2.5"}
    ]


def test_an_incident_says_what_was_seen_and_done(tmp_path: Path) -> None:
    text = incident_markdown(RunLayout(tmp_path), INCIDENT, DECISION)
    assert "Began at step **5**, verdict at step 9" in text
    assert "back to **ckpt_001**, data: skip" in text
    assert "| rise nats | 1.25 |" in text
