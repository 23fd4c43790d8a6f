"""The orchestrator is a view: a run under a real server is one run directory, whatever becomes of the server."""

import json
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from machine import LONGER, MINI, Machine, wait_until
from prefect_service import ask, kill_server, save_block, server_processes, trigger, trigger_mini
from s3_server import ACCESS_KEY, SECRET_KEY, S3Server

pytestmark = pytest.mark.slow


def ui_of(lines: list[str]) -> str:
    return next(line.split("the UI is at ")[1].split(" ")[0] for line in lines if "the UI is at " in line)


def listen(stream: Any, lines: list[str]) -> None:
    lines.extend(iter(stream.readline, ""))


def run_with_ui(machine: Machine, at_step: int, then: Callable[[list[str]], None]) -> tuple[int, list[str]]:
    """Run mini with its own server; at that step do something to it; how the run ended, and what it said."""
    driver = machine.start(*machine.run_mini("mini", *LONGER, "--ui"))
    said: list[str] = []
    listener = threading.Thread(target=listen, args=(driver.stderr, said), daemon=True)
    listener.start()
    machine.wait_for_step("mini", "stage1", at_step)
    then(said)
    driver.wait(timeout=240)
    return driver.returncode, said


def test_the_server_killed_for_good_costs_no_step(machine: Machine, reference: Machine) -> None:
    code, said = run_with_ui(machine, 25, lambda _said: kill_server(machine))
    assert code == 0, "".join(said)
    assert machine.losses("mini") == reference.losses("mini")
    status = machine.status("mini")
    assert (status["state"], status["attempts"]) == ("done", 2)  # no attempt more than the unbroken run's
    assert server_processes(machine) == []


def test_what_the_ui_shows(machine: Machine) -> None:
    seen: dict[str, Any] = {}

    def look(said: list[str]) -> None:
        ui = ui_of(said)
        [run] = ask(ui, "/flow_runs/filter", {})
        wait_until(lambda: len(ask(ui, "/task_runs/filter", {})) >= 3, 60)
        seen["run"], seen["tasks"] = run, {one["name"] for one in ask(ui, "/task_runs/filter", {})}

    code, said = run_with_ui(machine, 45, look)
    assert code == 0, "".join(said)
    assert seen["run"]["name"] == "pretrain mini"
    assert seen["run"]["parameters"]["request"]["recipe"] == str(MINI)
    assert {"prepare data", "stage1 chunk 000", "watch stage1 attempt 1"} <= seen["tasks"]


def tasks_of(url: str, run: str) -> set[str]:
    return {one["name"] for one in ask(url, "/task_runs/filter", {"flow_runs": {"id": {"any_": [run]}}, "limit": 200})}


def completed(url: str, run: str) -> bool:
    wait_until(lambda: ask(url, f"/flow_runs/{run}")["state"]["type"] in ("COMPLETED", "FAILED", "CRASHED"), 240)
    return bool(ask(url, f"/flow_runs/{run}")["state"]["type"] == "COMPLETED")


def test_a_server_that_comes_back_learns_how_the_run_ended(machine: Machine, reference: Machine, url: str) -> None:
    run = trigger_mini(machine, url)
    machine.wait_for_step("mini", "stage1", 25)
    kill_server(machine)
    time.sleep(5)
    assert machine.k2("up", "--port", "0").returncode == 0  # the same address: worker and flow are still there
    assert completed(url, run)
    assert machine.losses("mini") == reference.losses("mini")


def test_deployments_triggered_over_rest_train_to_a_release_and_score_what_is_unscored(
    machine: Machine, reference: Machine, url: str, s3_process: S3Server
) -> None:
    """It publishes to a bucket whose keys a block of the server holds, and nothing else does, neither then nor afterwards."""
    store = s3_process.connect()
    store.create_bucket(Bucket="k2-block")
    save_block(machine, url, {"AWS_ENDPOINT_URL": s3_process.url, "AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY})
    place = machine.root / "bucket.toml"
    there = ('publish_to = ["s3://k2-block/{run}"]', 'credentials = ["secret/k2-store"]', 'evaluator_devices = ["cpu", "cpu"]')
    place.write_text(machine.place.read_text() + "\n".join(there) + "\n")
    run = trigger_mini(machine, url, overrides=("evaluation.every=99",), place=place)  # the last checkpoint alone is scored
    assert completed(url, run)
    released = store.list_objects_v2(Bucket="k2-block", Prefix="mini/release/")["Contents"]
    assert "mini/release/receipt.json" in [found["Key"] for found in released]
    assert {"stage1 chunk 000", "evaluate ckpt_004", "publish ckpt_004", "release"} <= tasks_of(url, run)
    keys = {one["key"] for one in ask(url, "/artifacts/filter", {})}
    assert {"mini-loss", "mini-scores", "mini-progress", "mini-page"} <= keys
    assert machine.losses("mini") == reference.losses("mini")

    chosen = trigger(url, "evaluate", {"run": "mini", "checkpoints": ["ckpt_001"], "suites": ["k2_tiny"], "runs_dir": str(machine.runs)})
    assert completed(url, chosen)
    assert ask(url, f"/flow_runs/{chosen}")["name"] == "evaluate mini"
    assert {name.rpartition(" ")[2] for name in tasks_of(url, chosen)} == {"ckpt_001"}
    assert len(list(machine.layout("mini").all_task_scores.glob("ckpt_001/k2_tiny/*/receipt.json"))) == len(tasks_of(url, chosen))
    sweep = {"targets": ["s3://k2-block/mini"], "place": str(place), "runs_dir": str(machine.runs)}
    swept = trigger(url, "evaluate-new", sweep)
    assert completed(url, swept)
    assert {name.rpartition(" ")[2] for name in tasks_of(url, swept)} == {"ckpt_001", "ckpt_002", "ckpt_003"}
    logs = [path.name for path in machine.runs.glob(".published/*/logs/*")]
    assert sorted(logs) == ["evaluator.log", "evaluator_1.log"]  # on both devices of the place

    told = [path.read_bytes() for path in machine.root.rglob("*") if path.is_file()]
    told += [json.dumps(ask(url, f"/{kind}/filter", {})).encode() for kind in ("artifacts", "flow_runs", "task_runs", "block_documents")]
    assert len(told) > 300
    assert not [content for content in told if SECRET_KEY.encode() in content]


def test_a_run_suspended_in_the_ui_stops_saved_and_goes_on_when_resumed_there(machine: Machine, reference: Machine, url: str) -> None:
    run = trigger_mini(machine, url)
    machine.wait_for_step("mini", "stage1", 15)
    until = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    details = {"pause_reschedule": True, "pause_timeout": until}  # as the Suspend button and `suspend_flow_run` set it
    ask(url, f"/flow_runs/{run}/set_state", {"state": {"type": "PAUSED", "name": "Suspended", "state_details": details}})
    wait_until(lambda: machine.processes("trainer", "mini") == [] and machine.status("mini")["state"] == "stopped", 60)
    assert ask(url, f"/flow_runs/{run}")["state"]["name"] == "Suspended"
    ask(url, f"/flow_runs/{run}/resume", {})
    assert completed(url, run)
    assert machine.losses("mini") == reference.losses("mini")


def test_a_run_cancelled_in_the_ui_stops_saved_and_is_resumed(machine: Machine, reference: Machine) -> None:
    def cancel(said: list[str]) -> None:
        ui = ui_of(said)
        [run] = ask(ui, "/flow_runs/filter", {})
        state = {"state": {"type": "CANCELLING", "name": "Cancelling"}, "force": True}
        ask(ui, f"/flow_runs/{run['id']}/set_state", state)

    code, said = run_with_ui(machine, 15, cancel)
    assert code == 3, "".join(said)
    assert machine.processes("trainer", "mini") == []
    assert machine.k2("resume", "mini").returncode == 0
    assert machine.losses("mini") == reference.losses("mini")
