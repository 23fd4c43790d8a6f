"""The local Prefect service: `k2 up` and `k2 down`, and a server for the duration of one run.

What enters is the runs directory; what leaves is the address. Everything of the service lies in `.server` there:
SQLite, logs, and `service.json`, which names the processes. Each stands under a supervisor, so that ending one ends
all that it started. Nothing here imports Prefect: whoever does so next finds the settings in the environment.
"""

import fcntl
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

import flows
from flows.prefect_api import api_reachable
from k2.launch.command import MARK, Command
from k2.launch.process import end, launch
from k2.launch.strays import end_strays
from k2.run.durable import write_durably

START_SECONDS = 90.0  # 11 s on two idle cores, the first time
SERVER_GRACE, WORKER_GRACE = 5.0, 30.0  # a trainer under the worker saves before it ends
LOOPBACK = ("127.0.0.1", "localhost", "::1")
DEPLOYMENTS = Path(flows.__file__).parents[1] / "deployments" / "prefect.yaml"


class ServiceRefused(ValueError):
    """A service that is not started. The text is for the user."""


class ServiceFailed(RuntimeError):
    """A service that did not come up. The text holds the end of its log."""


class Supervised(BaseModel):
    """A supervisor, told from a later process of the same number by its start."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pid: int
    started: str

    @property
    def lives(self) -> bool:
        return _start_of(self.pid) == self.started


class Service(BaseModel):
    """A running service. Without a worker it lasts as long as the run that it was started for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    api_url: str
    ui_url: str
    server: Supervised
    worker: Supervised | None = None

    @property
    def whole(self) -> bool:
        return self.server.lives and (self.worker is None or self.worker.lives) and api_reachable(self.api_url)


@dataclass(frozen=True)
class Address:
    """Where the server listens."""

    host: str
    port: int

    @property
    def ui_url(self) -> str:
        """As this machine reaches it."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "::1": "[::1]"}.get(self.host, self.host)  # noqa: S104 (mapped away, not bound)
        return f"http://{host}:{self.port}"

    @property
    def api_url(self) -> str:
        return f"{self.ui_url}/api"


def up(runs_dir: Path, host: str = "127.0.0.1", port: int = 4200) -> Service:
    """Start server, deployments and worker; the service that runs already, where one does. Port 0 takes a free one."""
    home = _home(runs_dir)
    with _alone(home):
        service = _read(home)
        if service is not None and service.worker is not None and service.whole:
            return service
        _end_all(home, service)
        address = choose_address(host, port, os.environ)
        environment = {**os.environ, **settings(home, address, os.environ), MARK: _mark(home), "K2_RUNS_DIR": str(runs_dir.resolve())}
        try:
            return _start(home, address, environment)
        except BaseException:
            _end_all(home, _read(home))
            raise


def down(runs_dir: Path) -> Service | None:
    """End worker and server and all that they started; the service that ran, if one did."""
    home = _home(runs_dir)
    if not home.is_dir():
        return None
    with _alone(home):
        service = _read(home)
        _end_all(home, service)
        return service


@contextmanager
def serving(runs_dir: Path) -> Iterator[Service]:
    """A server while the block lasts, its settings in the environment; the service of `k2 up`, where that runs."""
    home = _home(runs_dir)
    with _alone(home):
        service = _read(home)
        running = service if service is not None and service.whole else None
    if running is not None:
        with _environment(settings(home, _address_of(running), os.environ)):
            yield running
        return
    with _alone(home):
        _end_all(home, service)
        address = choose_address("127.0.0.1", 0, os.environ)
        chosen = settings(home, address, os.environ)
        process = _launch_server(home, address, {**os.environ, **chosen, MARK: _mark(home)}, lasts=False)
    try:
        service = Service(api_url=address.api_url, ui_url=address.ui_url, server=_supervised(process))
        _wait_until_healthy(home, address, process)
        _write(home, service)
        with _environment(chosen):
            yield service
    finally:
        end(process, signal.SIGTERM, SERVER_GRACE)
        _record(home).unlink(missing_ok=True)


def settings(home: Path, address: Address, environ: Mapping[str, str]) -> dict[str, str]:
    """What server, worker, flows and clients must find: quiet, JSON results, nothing sent anywhere, slots that survive a restart."""
    chosen = {
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": address.api_url,
        "PREFECT_SERVER_UI_API_URL": "/api",  # under whatever name the browser knows this machine
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_SERVER_UI_V2_ENABLED": "false",  # V2 asks an analytics host for its settings from the browser
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": address.ui_url,  # no other page of the browser may start a flow
        "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",  # Prefect's own default would unpickle
        "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "false",
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
        "PREFECT_WORKER_QUERY_SECONDS": "2",
    }
    if "PREFECT_SERVER_API_AUTH_STRING" in environ:
        chosen["PREFECT_API_AUTH_STRING"] = environ["PREFECT_SERVER_API_AUTH_STRING"]
    if address.host not in LOOPBACK:
        chosen["PREFECT_SERVER_CSRF_PROTECTION_ENABLED"] = "true"
    return chosen


def choose_address(host: str, port: int, environ: Mapping[str, str]) -> Address:
    """Where to listen. `ServiceRefused` beyond loopback without a password, and for a port that is taken."""
    if host not in LOOPBACK and not environ.get("PREFECT_SERVER_API_AUTH_STRING"):
        raise ServiceRefused(
            f"host {host} lies beyond loopback, where anybody could start flows and read secrets: set "
            f"PREFECT_SERVER_API_AUTH_STRING=user:{secrets.token_urlsafe(9)} (or another) first, or use 127.0.0.1"
        )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ServiceRefused(f"port {port} of {host} cannot be used ({error.strerror}); give another with --port") from error
        return Address(host, int(probe.getsockname()[1]))


def _start(home: Path, address: Address, environment: dict[str, str]) -> Service:
    """Server, then deployments (imported while it starts), then worker."""
    server = _launch_server(home, address, environment, lasts=True)
    service = Service(api_url=address.api_url, ui_url=address.ui_url, server=_supervised(server))
    _write(home, service)
    deploy = (sys.executable, "-m", "flows.deploy", str(DEPLOYMENTS), "--wait", str(START_SECONDS))
    with (home / "deploy.log").open("wb") as log, subprocess.Popen(deploy, env=environment, stdout=log, stderr=log) as deploying:
        try:
            _wait_until_healthy(home, address, server)
            deployed = deploying.wait(START_SECONDS)
        finally:
            deploying.kill()
    if deployed != 0:
        raise ServiceFailed(f"the deployments were not registered: {_tail(home / 'deploy.log')}")
    worker = ("-m", "prefect", "worker", "start", "--pool", "k2", "--type", "process", "--name", "k2-worker")
    process = launch(_command(worker, environment, WORKER_GRACE, lasts=True), home / "worker.log")
    service = service.model_copy(update={"worker": _supervised(process)})
    _write(home, service)
    return service


def _launch_server(home: Path, address: Address, environment: dict[str, str], *, lasts: bool) -> "subprocess.Popen[bytes]":
    start = ("-m", "prefect", "server", "start", "--host", address.host, "--port", str(address.port))
    return launch(_command(start, environment, SERVER_GRACE, lasts=lasts), home / "server.log")


def _command(arguments: tuple[str, ...], environment: dict[str, str], grace: float, *, lasts: bool) -> Command:
    options = ("--grace", str(grace), *(("--outlive-parent",) if lasts else ("--orphan-grace", "2")))
    return Command((sys.executable, "-m", "k2.launch.supervise", *options, "--", sys.executable, *arguments), environment)


def _wait_until_healthy(home: Path, address: Address, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + START_SECONDS
    while not api_reachable(address.api_url):
        if process.poll() is not None or time.monotonic() > deadline:
            raise ServiceFailed(f"the Prefect server did not start: {_tail(home / 'server.log')}")
        time.sleep(0.1)


def _end_all(home: Path, service: Service | None) -> None:
    """Worker first: its flows still have a server to say how they ended to."""
    if service is not None:
        if service.worker is not None:
            _end_supervisor(service.worker, WORKER_GRACE)
        _end_supervisor(service.server, SERVER_GRACE)
    end_strays(_mark(home))
    _record(home).unlink(missing_ok=True)


def _end_supervisor(supervisor: Supervised, grace: float) -> None:
    for number, seconds in ((signal.SIGTERM, grace + 5.0), (signal.SIGQUIT, 10.0)):
        deadline = time.monotonic() + seconds
        if supervisor.lives:
            with suppress(ProcessLookupError):
                os.kill(supervisor.pid, number)
        while supervisor.lives and time.monotonic() < deadline:
            time.sleep(0.05)


def _home(runs_dir: Path) -> Path:
    return runs_dir.resolve() / ".server"


def _record(home: Path) -> Path:
    return home / "service.json"


def _mark(home: Path) -> str:
    return f"service:{home}"


def _read(home: Path) -> Service | None:
    try:
        return Service.model_validate_json(_record(home).read_bytes())
    except (OSError, ValidationError):
        return None


def _write(home: Path, service: Service) -> None:
    write_durably(_record(home), json.dumps(service.model_dump()).encode())


def _address_of(service: Service) -> Address:
    host, _, port = service.ui_url.removeprefix("http://").rpartition(":")
    return Address(host.strip("[]"), int(port))


def _supervised(process: "subprocess.Popen[bytes]") -> Supervised:
    return Supervised(pid=process.pid, started=_start_of(process.pid) or "")


def _start_of(pid: int) -> str | None:
    """When the process started, in the kernel's ticks; None when there is none, or only its zombie."""
    try:
        fields = Path("/proc", str(pid), "stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]  # field 22 of proc(5), counted behind the name


def _tail(log: Path, lines: int = 8) -> str:
    return "\n".join(log.read_text("utf-8", "replace").splitlines()[-lines:])


@contextmanager
def _alone(home: Path) -> Iterator[None]:
    """One start or end at a time."""
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (home / "LOCK").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def _environment(chosen: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in chosen}
    os.environ.update(chosen)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
