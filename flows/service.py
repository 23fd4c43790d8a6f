"""What a local Prefect service is: its address, its settings, and the record of its processes.

What enters is where it shall listen and the environment; what leaves are the settings of everything that belongs to
it, and `service.json`, from which any later command knows what runs. Nothing here imports Prefect.
"""

import json
import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from flows.prefect_api import api_reachable
from k2.run.durable import write_durably

LOOPBACK = ("127.0.0.1", "localhost", "::1")


class ServiceRefused(ValueError):
    """A service that is not started. The text is for the user."""


class Supervised(BaseModel):
    """A supervisor, told from a later process of the same number by its start."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pid: int
    started: str

    @classmethod
    def of(cls, pid: int) -> Self:
        return cls(pid=pid, started=_start_of(pid) or "")

    @property
    def lives(self) -> bool:
        return _start_of(self.pid) == self.started


class Service(BaseModel):
    """A running service. Without a worker it lasts as long as the run that it was started for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    api_url: str
    ui_url: str
    host: str
    server: Supervised
    worker: Supervised | None = None

    @property
    def lives(self) -> bool:
        """Whether any part of it does."""
        return self.server.lives or (self.worker is not None and self.worker.lives)

    @property
    def whole(self) -> bool:
        """Whether every part of what `k2 up` starts lives, and the server answers."""
        return self.server.lives and self.worker is not None and self.worker.lives and api_reachable(self.api_url)

    @property
    def address(self) -> "Address":
        _, _, port = self.ui_url.removeprefix("http://").rpartition(":")
        return Address(self.host, int(port))


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
    try:
        return Address(host, usable_port(host, port))
    except OSError as error:
        raise ServiceRefused(f"port {port} of {host} cannot be used ({error.strerror}); give another with --port") from error


def usable_port(host: str, port: int) -> int:
    """The port, or a free one for 0. `OSError` where nobody can listen there now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))
        return int(probe.getsockname()[1])


def home_of(runs_dir: Path) -> Path:
    """Everything of the service lies here: database, logs, record."""
    return runs_dir.resolve() / ".server"


def record_of(home: Path) -> Path:
    return home / "service.json"


def read_service(home: Path) -> Service | None:
    """What is recorded, whether it still lives or not."""
    try:
        return Service.model_validate_json(record_of(home).read_bytes())
    except (OSError, ValidationError):
        return None


def write_service(home: Path, service: Service) -> Service:
    write_durably(record_of(home), json.dumps(service.model_dump()).encode())
    return service


def _start_of(pid: int) -> str | None:
    """When the process started, in the kernel's ticks; None when there is none, or only its zombie."""
    try:
        fields = Path("/proc", str(pid), "stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]  # field 22 of proc(5), counted behind the name
