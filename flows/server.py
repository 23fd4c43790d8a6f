"""The local Prefect service: `k2 up` and `k2 down`, and a server for the duration of one run.

What enters is the runs directory; what leaves is the service with its address. Each process stands under a
supervisor, so that ending one ends all that it started. Nothing here imports Prefect: whoever does so inside
`serving` finds the settings in the environment.
"""

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import flows
from flows.environment import in_environment
from flows.prefect_api import api_reachable
from flows.service import (
    Address,
    Service,
    ServiceRefused,
    Supervised,
    choose_address,
    home_of,
    read_service,
    record_of,
    settings,
    write_service,
)
from k2.launch.command import MARK, Command
from k2.launch.process import end, launch
from k2.launch.strays import end_strays

_BRIEF_RETRIES = {"PREFECT_CLIENT_MAX_RETRIES": "2"}  # nobody brings this server back: waiting a minute a call for it helps no one
START_SECONDS = 90.0  # 10 s on two idle cores, the first time
SERVER_GRACE, WORKER_GRACE = 5.0, 30.0  # a trainer under the worker saves before it ends
DEPLOYMENTS = Path(flows.__file__).parents[1] / "deployments" / "prefect.yaml"


class ServiceFailed(RuntimeError):
    """A service that did not come up. The text holds the end of its log."""


def up(runs_dir: Path, host: str = "127.0.0.1", port: int = 4200, deployments: Path = DEPLOYMENTS) -> Service:
    """Start server, deployments and worker, or those of them that have ended; the service. Port 0 takes a free one.

    A part that lives is left alone: a worker and its flows survive a server that died.
    """
    home = home_of(runs_dir)
    with _alone(home):
        found = read_service(home)
        if found is not None and found.whole:
            return found
        if found is not None and found.server.lives and found.worker is None:
            raise ServiceRefused(f"a run that is going on serves its own UI at {found.ui_url}; start the service when that run has ended")
        kept = found if found is not None and found.lives else None
        if kept is None:
            end_strays(_mark(home))
        address = choose_address(host, port, os.environ) if kept is None else kept.address
        return _Start(home, address, runs_dir, deployments).bring_up(kept)


def down(runs_dir: Path) -> Service | None:
    """End worker and server and all that they started; the service that was recorded, if one was."""
    home = home_of(runs_dir)
    if not home.is_dir():
        return None
    with _alone(home):
        service = read_service(home)
        if service is not None:
            _end_service(service)
        end_strays(_mark(home))
        record_of(home).unlink(missing_ok=True)
        return service


@contextmanager
def serving(runs_dir: Path) -> Iterator[Service]:
    """A server while the block lasts, its settings in the environment. A service that lives there already is joined."""
    home = home_of(runs_dir)
    with _alone(home):
        found = read_service(home)
        joined = found is not None and found.lives
        if found is not None and joined:
            service, process = found, None
        else:
            end_strays(_mark(home))
            address = choose_address("127.0.0.1", 0, os.environ)
            process = _launch_server(home, address, _environment_of(home, address, runs_dir), lasts=False)
            service = write_service(home, _service(address, process))
    try:
        with suppress(ServiceFailed) if joined else nullcontext():
            _wait_until_healthy(home, service)
        with in_environment(settings(home, service.address, os.environ) | ({} if joined else _BRIEF_RETRIES)):
            yield service
    finally:
        if process is not None:
            end(process, signal.SIGTERM, SERVER_GRACE)
            record_of(home).unlink(missing_ok=True)


class _Start:
    """Bringing a service up. What it has started ends again when it fails."""

    def __init__(self, home: Path, address: Address, runs_dir: Path, deployments: Path) -> None:
        self._home, self._address, self._deployments = home, address, deployments
        self._environment = _environment_of(home, address, runs_dir)
        self._started: list[subprocess.Popen[bytes]] = []

    def bring_up(self, kept: Service | None) -> Service:
        """Server, then deployments (imported while it starts), then worker; what lives of `kept` stays."""
        try:
            service = kept if kept is not None and kept.server.lives else self._with_server(kept)
            self._register(service)
            return service if service.worker is not None and service.worker.lives else self._with_worker(service)
        except BaseException:
            for process in self._started:
                end(process, signal.SIGTERM, SERVER_GRACE)
            raise

    def _with_server(self, kept: Service | None) -> Service:
        process = _launch_server(self._home, self._address, self._environment, lasts=True)
        self._started.append(process)
        worker = kept.worker if kept is not None else None
        return write_service(self._home, _service(self._address, process).model_copy(update={"worker": worker}))

    def _register(self, service: Service) -> None:
        log = self._home / "deploy.log"
        deploy = (sys.executable, "-m", "flows.deploy", str(self._deployments), "--wait", str(START_SECONDS))
        with log.open("wb") as output, subprocess.Popen(deploy, env=self._environment, stdout=output, stderr=output) as deploying:
            try:
                _wait_until_healthy(self._home, service)
                code = deploying.wait(START_SECONDS)
            finally:
                deploying.kill()
        if code != 0:
            raise ServiceFailed(f"the deployments were not registered: {_tail(log)}")

    def _with_worker(self, service: Service) -> Service:
        start = ("-m", "prefect", "worker", "start", "--pool", "k2", "--type", "process", "--name", "k2-worker")
        process = launch(_command(start, self._environment, WORKER_GRACE, lasts=True), self._home / "worker.log")
        self._started.append(process)
        return write_service(self._home, service.model_copy(update={"worker": Supervised.of(process.pid)}))


def _environment_of(home: Path, address: Address, runs_dir: Path) -> dict[str, str]:
    return {**os.environ, **settings(home, address, os.environ), MARK: _mark(home), "K2_RUNS_DIR": str(runs_dir.resolve())}


def _launch_server(home: Path, address: Address, environment: dict[str, str], *, lasts: bool) -> "subprocess.Popen[bytes]":
    start = ("-m", "prefect", "server", "start", "--host", address.host, "--port", str(address.port))
    return launch(_command(start, environment, SERVER_GRACE, lasts=lasts), home / "server.log")


def _service(address: Address, server: "subprocess.Popen[bytes]") -> Service:
    return Service(api_url=address.api_url, ui_url=address.ui_url, host=address.host, server=Supervised.of(server.pid))


def _command(arguments: tuple[str, ...], environment: dict[str, str], grace: float, *, lasts: bool) -> Command:
    options = ("--grace", str(grace), *(("--outlive-parent",) if lasts else ("--orphan-grace", "2")))
    return Command((sys.executable, "-m", "k2.launch.supervise", *options, "--", sys.executable, *arguments), environment)


def _wait_until_healthy(home: Path, service: Service) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not api_reachable(service.api_url):
        if not service.server.lives or time.monotonic() > deadline:
            raise ServiceFailed(f"the Prefect server does not answer: {_tail(home / 'server.log')}")
        time.sleep(0.1)


def _end_service(service: Service) -> None:
    """Worker first: its flows still have a server to say how they ended to."""
    if service.worker is not None:
        _end_supervisor(service.worker, WORKER_GRACE)
    _end_supervisor(service.server, SERVER_GRACE)


def _end_supervisor(supervisor: Supervised, grace: float) -> None:
    for number, seconds in ((signal.SIGTERM, grace + 5.0), (signal.SIGQUIT, 10.0)):
        deadline = time.monotonic() + seconds
        if supervisor.lives:
            with suppress(ProcessLookupError):
                os.kill(supervisor.pid, number)
        while supervisor.lives and time.monotonic() < deadline:
            time.sleep(0.05)


def _mark(home: Path) -> str:
    return f"service:{home}"


def _tail(log: Path, lines: int = 8) -> str:
    return "\n".join(log.read_text("utf-8", "replace").strip().splitlines()[-lines:])


@contextmanager
def _alone(home: Path) -> Iterator[None]:
    """One start or end at a time."""
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (home / "LOCK").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
