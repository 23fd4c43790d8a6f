"""Where processes meet: ranks on loopback, hosts at the place's rendezvous, flows at the Prefect server. Only loopback is contacted."""

import os
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

import psutil

from flows.doctor.check import Check, Patient, fails, fine, note
from flows.prefect_api import api_reachable
from flows.service import LOOPBACK, Service, ServiceRefused, choose_address, home_of, read_service, usable_port
from k2.launch.network import Unreachable, check_driver, way_to
from k2.recipe.place import Place

_USUAL_PORT = 4200  # of `k2 up`


@dataclass(frozen=True)
class Meeting:
    """This host at the rendezvous. `elsewhere`: it is another host that the rendezvous names; `taken`: why its port cannot be had."""

    way: tuple[str, str] | None = None
    no_way: str | None = None
    elsewhere: str | None = None
    taken: str | None = None


@dataclass(frozen=True)
class Server:
    """The Prefect server. `address` is PREFECT_API_URL; `answers` is None where it was not asked; `refused`: why none can be started."""

    address: str | None
    answers: bool | None
    with_password: bool
    service: Service | None
    refused: str | None


def check_network(patient: Patient) -> Iterator[Check]:
    """Loopback, the other hosts, the server."""
    yield judge_loopback(loopback_trouble())
    if patient.place.rendezvous is not None:
        yield judge_meeting(patient.place, meet(patient.place, patient.place.rendezvous))
    yield from judge_server(patient.place, ask_server(patient, os.environ))


def judge_loopback(trouble: str | None) -> Check:
    if trouble is not None:
        return fails("loopback", f"does not work: {trouble}; the ranks of a host, and its services, meet there", "`ip link set lo up`")
    return fine("loopback", "works")


def judge_meeting(place: Place, meeting: Meeting) -> Check:
    """Where the place has several nodes."""
    name, where = "rendezvous", f"nodes = {place.nodes}, rendezvous = {place.rendezvous}"
    if meeting.way is None:
        return fails(name, f"{where}: no way leads there", meeting.no_way or "")
    address, interface = meeting.way
    here = f"this host is {address} on {interface}"
    if meeting.elsewhere is not None:
        return note(name, f"{where}: {here}, not node 0", "here the run is joined: `k2 join RUN --node K`; `k2 run` belongs on node 0")
    if meeting.taken is not None:
        return fails(name, f"{where}: {here}, node 0, and the port cannot be had ({meeting.taken})", "choose a free one for rendezvous")
    return fine(name, f"{where}: {here}, node 0; the port is free")


def judge_server(place: Place, server: Server) -> Iterator[Check]:
    """A run needs no server: only blocks that the place names do, and `k2 up` a port."""
    yield _judge_configured(place, server)
    if server.service is not None and server.service.lives:
        whole = server.service.whole
        found = f"`k2 up` runs at {server.service.ui_url}"
        yield fine("service", found) if whole else note("service", f"{found}, but not all of it lives", "`k2 up` starts what is missing")
    elif server.refused is not None:
        yield note("service", server.refused, "`k2 up` would be refused; `k2 run` is not")
    else:
        yield fine("service", f"port {_USUAL_PORT} is free for `k2 up`")


def _judge_configured(place: Place, server: Server) -> Check:
    name, needs = "Prefect server", f"the place has its credentials from blocks ({', '.join(place.credentials)})"
    fix = "start it with `k2 up` and set PREFECT_API_URL, or set the variables themselves and credentials = []"
    if server.address is None:
        if place.credentials:
            return fails(name, f"PREFECT_API_URL is not set, and {needs}", fix)
        return note(name, "PREFECT_API_URL is not set: runs are driven without one, which costs nothing but the UI")
    if server.answers is None:
        found = f"{server.address} lies beyond loopback and was not asked"
        unsafe = "no password goes with it (PREFECT_API_AUTH_STRING, PREFECT_API_KEY): whoever reaches it starts flows and reads secrets"
        return note(name, found, "" if server.with_password else unsafe)
    if not server.answers:
        found = f"none answers at PREFECT_API_URL = {server.address}"
        if place.credentials:
            return fails(name, f"{found}, and {needs}", fix)
        return note(name, found, "runs go on without; `k2 up` starts one")
    return fine(name, f"answers at {server.address}")


def loopback_trouble() -> str | None:
    """Why two sockets cannot meet on loopback; None where they can."""
    if "lo" not in psutil.net_if_addrs():
        return "there is no interface lo"
    try:
        socket.getaddrinfo("localhost", None)
        with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname(), timeout=2):
            return None
    except OSError as error:
        return error.strerror or str(error)


def meet(place: Place, rendezvous: str) -> Meeting:
    """This host's way to the rendezvous, and whether its port is free where that is here. Nothing is sent."""
    try:
        way = way_to(rendezvous)
    except Unreachable as error:
        return Meeting(no_way=str(error))
    try:
        check_driver(place)
    except Unreachable as error:
        return Meeting(way, elsewhere=str(error))
    try:
        usable_port(way[0], int(rendezvous.rpartition(":")[2]))
    except OSError as error:
        return Meeting(way, taken=error.strerror or str(error))
    return Meeting(way)


def ask_server(patient: Patient, environ: Mapping[str, str]) -> Server:
    """Who answers; only loopback is asked."""
    address = environ.get("PREFECT_API_URL") or None
    near = address is not None and (urlsplit(address).hostname or "") in LOOPBACK
    service = read_service(home_of(patient.runs_dir))
    try:
        choose_address("127.0.0.1", _USUAL_PORT, environ)
        refused = None
    except ServiceRefused as error:
        refused = str(error)
    with_password = bool(environ.get("PREFECT_API_AUTH_STRING") or environ.get("PREFECT_API_KEY"))
    return Server(address, api_reachable(address) if near and address else None, with_password, service, refused)
