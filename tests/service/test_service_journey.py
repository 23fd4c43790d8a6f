"""A real server and a real worker: triggered, scheduled, looked at, killed, brought back and ended."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import prefect_api
import pytest
import yaml

from flows.server import DEPLOYMENTS, down, serving, up
from flows.service import Service
from k2.launch.strays import strays

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.slow

STUBS = Path(__file__).parent / "stubs"
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
POOL = {"name": "k2", "job_variables": {"stream_output": False}}


class Site:
    """A service in a folder, asked over its REST API as any program would."""

    def __init__(self, runs_dir: Path) -> None:
        self.runs_dir = runs_dir
        self.deployments = runs_dir / "prefect.yaml"
        document = yaml.safe_load(DEPLOYMENTS.read_text())
        for name in ("greet", "work"):
            document["deployments"].append(
                {"name": name, "entrypoint": f"service_stub_flows:{name}", "description": name, "parameters": {}, "work_pool": POOL}
            )
        self.deployments.write_text(yaml.safe_dump(document))
        self.service = self.up()

    def up(self) -> Service:
        self.service = up(self.runs_dir, port=0, deployments=self.deployments)
        return self.service

    @property
    def processes(self) -> list[int]:
        return strays(f"service:{self.runs_dir.resolve() / '.server'}")

    def ask(self, path: str, body: object = None, headers: dict[str, str] | None = None) -> Any:
        return prefect_api.ask(self.service.api_url, path, body, headers)

    def trigger(self, name: str, parameters: object) -> str:
        deployment = self.ask(f"/deployments/name/{name}/{name}")
        run = self.ask(f"/deployments/{deployment['id']}/create_flow_run", {"parameters": parameters})
        return str(run["id"])

    def state(self, run: str) -> str:
        return str(self.ask(f"/flow_runs/{run}")["state"]["type"])


def until(condition: Callable[[], object], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.2)


def lives(pid: int) -> bool:
    try:
        return b") Z " not in Path("/proc", str(pid), "stat").read_bytes()
    except OSError:
        return False


class Listener(BaseHTTPRequestHandler):
    """A webhook's far end: keeps what it is sent."""

    heard: ClassVar[list[dict[str, str]]] = []

    def do_POST(self) -> None:
        self.heard.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Silent."""


def told(event: str) -> list[dict[str, str]]:
    """What the webhook was told of this event."""
    return [said for said in Listener.heard if said["event"] == event]


@pytest.fixture(scope="module")
def webhook() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Listener) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/hook"
        server.shutdown()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, webhook: str) -> Iterator[Site]:
    runs_dir = tmp_path_factory.mktemp("service")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(STUBS))
        patch.setenv("K2_NOTIFY_URL", webhook)
        for name in [name for name in os.environ if name.startswith("PREFECT_")]:
            patch.delenv(name)
        try:
            yield Site(runs_dir)
        finally:
            down(runs_dir)


def test_a_deployment_that_is_triggered_over_rest_runs_to_its_end(site: Site) -> None:
    run = site.trigger("greet", {"request": {"name": "moon", "times": 2}})
    until(lambda: site.state(run) == "COMPLETED", 120)
    greeted = json.loads((site.runs_dir / "greeted-moon.json").read_text())
    assert greeted == {"said": "hello moonhello moon", "runs_dir": str(site.runs_dir.resolve()), "cwd": str(Path.cwd())}


def test_parameters_are_refused_at_the_door(site: Site) -> None:
    for parameters in ({"request": {"name": "mars"}}, {"request": {"nme": "moon"}}, {"request": {"times": "five"}}):
        with pytest.raises(HTTPError) as refused:
            site.trigger("greet", parameters)
        assert refused.value.code == 409


def test_another_page_of_the_browser_cannot_start_a_flow(site: Site) -> None:
    deployment = site.ask("/deployments/name/greet/greet")["id"]
    with pytest.raises(HTTPError) as refused:
        site.ask(f"/deployments/{deployment}/create_flow_run", {}, {"content-type": "text/plain", "Origin": "http://elsewhere.example"})
    assert refused.value.code == 422
    with pytest.raises(HTTPError) as refused:
        preflight = {"Origin": "http://elsewhere.example", "Access-Control-Request-Method": "POST"}
        urlopen(Request(f"{site.service.api_url}/flow_runs/filter", method="OPTIONS", headers=preflight), timeout=20)
    assert refused.value.code == 400


def test_a_scheduled_run_appears(site: Site) -> None:
    deployment = site.ask("/deployments/name/evaluate-new/evaluate-new")["id"]
    scheduled = {"flow_runs": {"deployment_id": {"any_": [deployment]}, "state": {"type": {"any_": ["SCHEDULED"]}}}}
    until(lambda: site.ask("/flow_runs/filter", scheduled), 120)


TELL = """
import sys
from pathlib import Path
from flows.console import let_prefect_finish
from flows.notify import tell_spike
from k2.run.layout import RunLayout
tell_spike(RunLayout(Path("runs/mini")), "malignant", 'a "malignant" spike', onset_step=61)
let_prefect_finish()
"""


def test_a_spike_is_notified_of_by_an_automation(site: Site) -> None:
    subprocess.run([sys.executable, "-c", TELL], env=os.environ | {"PREFECT_API_URL": site.service.api_url}, check=True)
    until(lambda: told("k2.spike.malignant"), 60)
    assert told("k2.spike.malignant") == [{"text": 'mini: a "malignant" spike', "event": "k2.spike.malignant", "run": "mini"}]


def test_a_flow_run_that_lost_its_process_is_notified_of(site: Site) -> None:
    """As the automation for silent flow runs marks it: no heartbeat, and the state is set from outside."""
    deployment = site.ask("/deployments/name/greet/greet")["id"]
    state = {"type": "SCHEDULED", "state_details": {"scheduled_time": "2099-01-01T00:00:00Z"}}
    run = site.ask(f"/deployments/{deployment}/create_flow_run", {"name": "silent", "state": state})["id"]
    for kind in ("RUNNING", "CRASHED"):
        site.ask(f"/flow_runs/{run}/set_state", {"state": {"type": kind, "name": kind.capitalize()}, "force": True})
    until(lambda: told("prefect.flow-run.Crashed"), 60)
    [said] = told("prefect.flow-run.Crashed")
    assert said["run"] == "silent"
    assert "can be resumed with `k2 resume`" in said["text"]


def test_a_second_up_reports_the_first(site: Site) -> None:
    before = site.service
    assert up(site.runs_dir, port=0, deployments=site.deployments) == before


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: `apt-get install chromium` gives one")
def test_a_run_is_started_from_the_form_in_the_browser(site: Site) -> None:
    from playwright.sync_api import sync_playwright

    deployment = site.ask("/deployments/name/greet/greet")["id"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page, hosts = browser.new_page(viewport={"width": 1300, "height": 1000}), set()
        page.on("request", lambda request: hosts.add(request.url.split("/")[2]))
        page.goto(f"{site.service.ui_url}/deployments")
        for name in ("pretrain", "resume", "evaluate-new", "publish"):
            page.get_by_role("link", name=name, exact=True).first.wait_for()
        page.goto(f"{site.service.ui_url}/deployments/deployment/{deployment}/run")
        assert 201 in (submit(page) for _ in range(5))
        page.wait_for_url(lambda url: not url.endswith("/run"))
        browser.close()
    until((site.runs_dir / "greeted-world.json").exists, 120)
    assert {host for host in hosts if host and not host.startswith("127.0.0.1:")} == set()


def submit(page: "Page") -> int:
    """The server's answer. Of a busy SQLite it is 503, which the page calls "Oops": a person submits again, as clients do by themselves."""
    with page.expect_response("**/create_flow_run") as answered:
        page.get_by_role("button", name="Submit").click()
    assert answered.value.status in (201, *prefect_api.BUSY)
    return int(answered.value.status)


def test_a_killed_server_is_brought_back_and_the_worker_goes_on(site: Site) -> None:
    before = site.service
    for pid in [*strays_of(site, "server start"), before.server.pid]:
        os.kill(pid, signal.SIGKILL)
    until(lambda: not before.server.lives, 10)
    after = site.up()
    assert after.api_url == before.api_url
    assert after.worker == before.worker
    run = site.trigger("greet", {})
    until(lambda: site.state(run) == "COMPLETED", 120)


def strays_of(site: Site, words: str) -> list[int]:
    """The service's processes that were started with these words, supervisors left out."""
    lines = {pid: Path("/proc", str(pid), "cmdline").read_bytes().replace(b"\0", b" ").decode() for pid in site.processes}
    return [pid for pid, line in lines.items() if words in line and "k2.launch.supervise" not in line]


def test_down_ends_what_its_flows_have_started(site: Site) -> None:
    site.trigger("work", {})
    until(lambda: list(site.runs_dir.glob("working-*")), 120)
    child = int(next(site.runs_dir.glob("working-*")).name.partition("-")[2])
    assert lives(child)
    assert down(site.runs_dir) is not None
    assert not lives(child)
    assert site.processes == []
    assert down(site.runs_dir) is None


OWNER = """
import sys, time
from pathlib import Path
from flows.server import serving
with serving(Path(sys.argv[1])) as service:
    print(service.api_url, flush=True)
    time.sleep(600)
"""


def test_a_runs_own_server_dies_with_the_run(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", OWNER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        api_url = owner.stdout.readline().strip()
        with serving(tmp_path) as joined:
            assert joined.api_url == api_url
            assert os.environ["PREFECT_API_URL"] == api_url
        owner.kill()
    mark = f"service:{tmp_path.resolve() / '.server'}"
    until(lambda: not strays(mark), 15)


def test_a_password_is_asked_for_where_one_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_SERVER_API_AUTH_STRING", "user:pass")
    with serving(tmp_path) as service:
        assert os.environ["PREFECT_API_AUTH_STRING"] == "user:pass"
        with pytest.raises(HTTPError) as refused:
            urlopen(Request(f"{service.api_url}/flows/filter", b"{}", {"content-type": "application/json"}), timeout=20)
        assert refused.value.code == 401
    assert "PREFECT_API_AUTH_STRING" not in os.environ
