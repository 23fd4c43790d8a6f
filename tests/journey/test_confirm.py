"""A human is asked in the Prefect UI: the run is suspended, outlives server and worker, and whoever answers first wins."""

import shutil

import pytest
from machine import MINI, Machine, wait_until
from prefect_service import ask, kill_server, trigger_mini

from k2.run.lease import is_held
from k2.run.ledger import IncidentDecided, IncidentOpened, read_facts

pytestmark = pytest.mark.slow

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
FAULTS = "".join(f'\n[[faults]]\nstage = "stage1"\nfirst_step = {step}\nsteps = 3\nlearning_rate_factor = 300.0\n' for step in (26, 52))
CONFIRM = ('spikes.mode="confirm"', "spikes.persistence_steps=6", "spikes.margin_steps=2", "spikes.answer_within_hours=48")
OLD_ANSWER = {"action": "rollback", "question": "mini incident 001: stage1 step 26, attempt 1"}


def trigger(machine: Machine, url: str) -> str:
    recipe = machine.root / "spiked.toml"
    recipe.write_text(MINI.read_text() + FAULTS)
    return trigger_mini(machine, url, recipe, CONFIRM)


def wait_until_suspended(machine: Machine, url: str, run: str, incidents: int) -> None:
    """Until the flow run waits for the answer to its so-many-th incident, and its process is gone."""

    def holds() -> bool:
        opened = sum(isinstance(fact, IncidentOpened) for fact in read_facts(machine.layout("mini").ledger))
        suspended = ask(url, f"/flow_runs/{run}")["state"]["name"] == "Suspended"
        return opened == incidents and suspended and not is_held(machine.layout("mini"))

    wait_until(holds, 180)


def decisions(machine: Machine) -> list[tuple[str, str]]:
    return [(f.action, f.who) for f in read_facts(machine.layout("mini").ledger) if isinstance(f, IncidentDecided)]


def answer_in_the_browser(url: str, run: str) -> None:
    """As a person does: the run's page, Resume, the form as it is filled in, Submit."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1300, "height": 1400})
        page.goto(f"{url}/runs/flow-run/{run}")
        page.get_by_role("button", name="Resume").first.click()
        page.get_by_text("malignant.long").first.wait_for()
        page.get_by_alt_text("loss and gradient norm around the incident").wait_for()
        page.get_by_role("button", name="Submit").click()
        page.get_by_role("button", name="Submit").wait_for(state="hidden")
        browser.close()


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: `apt-get install chromium` gives one")
def test_asked_in_the_ui_and_answered_there_and_by_command(machine: Machine, url: str) -> None:
    run = trigger(machine, url)
    wait_until_suspended(machine, url, run, 1)
    kill_server(machine)
    assert machine.k2("down").returncode == 0  # the worker too
    wait_until(lambda: machine.processes("trainer", "mini") == [], 30)
    assert machine.k2("up", "--port", url.rpartition(":")[2]).returncode == 0
    assert ask(url, f"/flow_runs/{run}")["state"]["name"] == "Suspended"
    answer_in_the_browser(url, run)
    wait_until(lambda: decisions(machine) == [("rollback", "the form in the UI")], 60)
    late = machine.k2("decide", "mini", "1", "abort")
    assert late.returncode == 1
    assert "by the form in the UI" in late.stderr
    wait_until_suspended(machine, url, run, 2)
    replayed = ask(url, f"/flow_runs/{run}/resume", {"run_input": OLD_ANSWER})
    assert replayed["status"] == "REJECT"
    assert "question" in replayed["details"]["reason"]
    assert machine.k2("decide", "mini", "2", "abort").returncode == 0
    wait_until(lambda: ask(url, f"/flow_runs/{run}")["state"]["type"] == "FAILED", 60)  # it went on by itself, to its end
    assert decisions(machine)[1:] == [("abort", "user")]
