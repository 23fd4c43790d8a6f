"""Which of this host's addresses and interfaces leads to the others."""

import socket

import psutil

from k2.recipe.place import Place


class Unreachable(ValueError):
    """No way leads to where the nodes meet."""


def way_to(rendezvous: str) -> tuple[str, str]:
    """(address, interface) of this host on the way to `host:port`; of node 0 itself the address that it names. Nothing is sent."""
    host, _, port = rendezvous.rpartition(":")
    try:
        family, kind, protocol, _, target = socket.getaddrinfo(host, int(port), type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(target)
            address = str(probe.getsockname()[0])
    except OSError as error:
        raise Unreachable(
            f"rendezvous = {rendezvous!r} of the place cannot be reached from {socket.gethostname()}: {error.strerror}"
        ) from error
    return address, _interface(address)


def _interface(address: str) -> str:
    for name, addresses in psutil.net_if_addrs().items():
        if any(each.address.partition("%")[0] == address for each in addresses):
            return str(name)
    raise Unreachable(f"no network interface of {socket.gethostname()} has the address {address}")


def check_driver(place: Place) -> None:
    """`Unreachable` on a host that is not the one where the place's nodes meet."""
    if place.rendezvous is None:
        return
    address, interface = way_to(place.rendezvous)
    host = place.rendezvous.rpartition(":")[0]
    if interface == "lo" and host != "localhost" and not host.startswith("127."):  # as /etc/hosts has a host's own name on many machines
        raise Unreachable(
            f"rendezvous = {place.rendezvous!r} leads to the loopback on this host, where no other reaches it: "
            "name the address of this host in the others' network instead"
        )
    if address not in {info[4][0] for info in socket.getaddrinfo(host, None)}:
        raise Unreachable(
            f"rendezvous = {place.rendezvous!r} names another host than this one ({address}): the run is driven where it points to; "
            "start `k2 run` or `k2 resume` there, and `k2 join` here"
        )
