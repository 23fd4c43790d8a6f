"""W&B offline: real files of a real client, with K2's names, and nothing outside the run's folder."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from spike_families import records

from k2.recipe.load import to_toml
from k2.recipe.place import Place
from k2.recipe.schema import Recipe
from k2.run.layout import RunLayout
from k2.run.ledger import AttemptStarted, IncidentDecided, IncidentOpened, append_facts, read_facts
from k2.watch.wandb_sink import metrics_of, mirror_attempt

LOSSES = np.array([4.0, 3.5, float("nan"), 3.25])


@pytest.fixture
def run(recipe: Recipe, layout: RunLayout) -> RunLayout:
    path = layout.metrics("stage1", 2)
    path.parent.mkdir(parents=True)
    path.write_text("".join(r.line() for r in records(LOSSES, attempt=2, first_step=81)))
    layout.recipe.write_text(to_toml(recipe))
    append_facts(layout.ledger, AttemptStarted(attempt=2, stage="stage1", checkpoint="ckpt_002", first_step=81))
    return layout


def mirror(recipe: Recipe, layout: RunLayout, mode: str = "offline", attempt: int = 2) -> bool:
    return mirror_attempt(recipe, Place.model_validate({"wandb_mode": mode}), layout, read_facts(layout.ledger), "stage1", attempt)


def log_records(path: Path) -> Iterator[Any]:
    """The records in W&B's log: 7 bytes of header, then chunks of a LevelDB log that hold protobuf."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, position, whole = path.read_bytes(), 7, b""
    while position + 7 <= len(content):
        _checksum, size, kind = struct.unpack("<IHB", content[position : position + 7])
        whole += content[position + 7 : position + 7 + size]
        position += 7 + size
        if kind in (1, 4):  # a full record, or its last part
            yield Record.FromString(whole)
            whole = b""


def logged(path: Path) -> Iterator[dict[str, str]]:
    """The history rows."""
    for record in log_records(path):
        if record.WhichOneof("record_type") == "history":
            yield {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}


def opening(path: Path) -> Any:
    """What the log says of the run itself."""
    return next(record.run for record in log_records(path) if record.WhichOneof("record_type") == "run")


def test_an_attempt_is_one_offline_run_under_k2s_names(
    recipe: Recipe, run: RunLayout, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert mirror(recipe, run)
    (folder,) = run.wandb.glob("offline-run-*-run-1-a2")
    rows = list(logged(folder / "run-run-1-a2.wandb"))
    assert [row["step"] for row in rows] == ["81", "82", "83", "84"]
    assert [row["lm loss"] for row in rows] == ["4", "3.5", "NaN", "3.25"]
    assert {"lm loss", "learning-rate", "grad-norm", "lm loss vs samples", "learning-rate vs samples", "grad-norm vs samples"} <= set(
        rows[0]
    )
    assert rows[0]["samples"] == str(81 * 4)
    assert not (tmp_path / "home").exists()
    assert {path.name for path in run.root.iterdir()} == {"metrics", "recipe.toml", "ledger.jsonl", "wandb"}
    assert mirror(recipe, run)  # again: nothing is written twice
    assert len(list(run.wandb.glob("offline-run-*"))) == 1


def test_a_rollback_is_a_fork_and_the_abandoned_branch_stays(recipe: Recipe, layout: RunLayout) -> None:
    """Attempt 1 trains to step 84; incident 1 goes back to step 82, whence attempt 2 goes on. Read back from the files."""
    for attempt, first_step in ((1, 81), (2, 83)):
        path = layout.metrics("stage1", attempt)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(r.line() for r in records(LOSSES, attempt=attempt, first_step=first_step)))
    layout.recipe.write_text(to_toml(recipe))
    append_facts(
        layout.ledger,
        AttemptStarted(attempt=1, stage="stage1", checkpoint="ckpt_002", first_step=81),
        IncidentOpened(incident=1, stage="stage1", attempt=1, kind="malignant.long", onset_step=83, verdict_step=84),
        IncidentDecided(incident=1, action="rollback", checkpoint="rescue_stage1_000082", data="skip"),
        AttemptStarted(attempt=2, stage="stage1", checkpoint="rescue_stage1_000082", first_step=83),
    )
    assert mirror(recipe, layout, attempt=1)
    assert mirror(recipe, layout, attempt=2)
    (first,) = layout.wandb.glob("offline-run-*-run-1-a1/*.wandb")
    (second,) = layout.wandb.glob("offline-run-*-run-1-a2/*.wandb")
    assert not opening(first).HasField("branch_point")
    point = opening(second).branch_point
    assert (point.run, point.metric, point.value) == ("run-1-a1", "_step", 82)
    assert [row["_step"] for row in logged(first)] == ["81", "82", "83", "84"]  # nothing was taken away
    assert [row["_step"] for row in logged(second)] == ["83", "84", "85", "86"]
    config = {item.key: json.loads(item.value_json) for item in opening(first).config.update}
    assert config["incidents"][0]["back_to"] == "rescue_stage1_000082"


def test_samples_run_on_through_the_stages(recipe: Recipe) -> None:
    from dataclasses import replace

    record = replace(records(LOSSES)[0], stage="stage2", step=3)
    assert metrics_of(recipe, record)["samples"] == 480 * 4 + 3 * 2


def test_disabled_or_unknown_or_empty_writes_nothing(recipe: Recipe, run: RunLayout) -> None:
    assert not mirror(recipe, run, mode="disabled")
    assert not mirror(recipe, run, attempt=3)
    run.metrics("stage1", 2).write_text("")
    assert not mirror(recipe, run)
    assert not run.wandb.exists()


def test_a_failure_is_logged_and_harms_nothing(recipe: Recipe, run: RunLayout, caplog: pytest.LogCaptureFixture) -> None:
    run.wandb.write_text("a file where W&B needs a folder")
    assert not mirror(recipe, run)
    assert "W&B got nothing of attempt 2" in caplog.text


RECORDING_CLIENT = """
import contextlib, json, os, pathlib
class Error(Exception): pass
class Settings:
    def __init__(self, **fields): pass
class Run:
    summary = {}
    def define_metric(self, *names, **fields): pass
    def log(self, row, step): pass
@contextlib.contextmanager
def init(**fields):
    pathlib.Path(os.environ["SEEN"]).write_text(json.dumps(dict(os.environ)))
    yield Run()
"""


@pytest.mark.parametrize("mode", ["offline", "online"])
def test_the_writer_gets_no_secret_but_wandbs_key_where_it_is_online(
    recipe: Recipe, run: RunLayout, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, mode: str
) -> None:
    """The client is replaced by one that writes down the environment it was given."""
    (tmp_path / "client").mkdir()
    (tmp_path / "client" / "wandb.py").write_text(RECORDING_CLIENT)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "client"))
    monkeypatch.setenv("SEEN", str(tmp_path / "seen.json"))
    for name in ("WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "DATABASE_URL"):
        monkeypatch.setenv(name, "canary")
    assert mirror(recipe, run, mode)
    seen = json.loads((tmp_path / "seen.json").read_text())
    assert [name for name, value in seen.items() if value == "canary"] == (["WANDB_API_KEY"] if mode == "online" else [])
