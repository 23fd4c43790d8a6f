"""A service of its own in a machine's folder (server, deployments, worker), asked and triggered as a program would."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import prefect_api
from machine import LONGER, MINI, Machine, read_or_empty


def ask(url: str, path: str, body: object = None) -> Any:
    return prefect_api.ask(f"{url}/api", path, body)


def server_processes(machine: Machine) -> list[int]:
    mark = f"K2_PROCESS=service:{machine.runs.resolve() / '.server'}".encode()
    pids = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if mark in read_or_empty(f"/proc/{pid}/environ")]
    return [pid for pid in pids if b"worker" not in (line := read_or_empty(f"/proc/{pid}/cmdline")) and b"engine" not in line]


def kill_server(machine: Machine) -> None:
    for pid in server_processes(machine):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def save_block(machine: Machine, url: str, variables: dict[str, str]) -> None:
    """A Secret block of the name `k2-store`, saved as a user does it."""
    save = "import os; from prefect.blocks.system import Secret; Secret(value=os.environ['HELD']).save('k2-store')"
    environment = machine.environment(PREFECT_API_URL=f"{url}/api", HELD=json.dumps(variables))
    subprocess.run([sys.executable, "-c", save], env=environment, cwd=machine.root, check=True, capture_output=True)


def trigger_mini(machine: Machine, url: str, recipe: Path = MINI, overrides: tuple[str, ...] = (), place: Path | None = None) -> str:
    """Trigger the deployment `pretrain` for the run `mini`; the flow run's id."""
    request = {
        "recipe": str(recipe),
        "run": "mini",
        "place": str(place or machine.place),
        "overrides": [LONGER[1], LONGER[3], *overrides],
        "runs_dir": str(machine.runs),
    }
    return trigger(url, "pretrain", request)


def trigger(url: str, deployment: str, request: dict[str, Any]) -> str:
    """Trigger a deployment as its form would; the flow run's id."""
    found = ask(url, f"/deployments/name/{deployment}/{deployment}")["id"]
    return str(ask(url, f"/deployments/{found}/create_flow_run", {"parameters": {"request": request}})["id"])
