"""Two hosts on one machine: each a network namespace with an address of its own, joined by a cable, and its processes in a namespace too.

What the hosts share is the file system, as a training's hosts do. Needs root; `why_not` says what is missing.
"""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass


@dataclass(frozen=True)
class Host:
    """One of the two. `inside` is what a command is prefixed with to run there: when that is killed, all of the host dies at once."""

    namespace: str
    interface: str
    address: str

    @property
    def inside(self) -> tuple[str, ...]:
        apart = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--uts")
        return ("ip", "netns", "exec", self.namespace, *apart)

    def pull_the_cable(self) -> None:
        """From now on nothing that is sent arrives, and nobody is told."""
        _ip("-n", self.namespace, "link", "set", self.interface, "down")

    def plug_in(self) -> None:
        _ip("-n", self.namespace, "link", "set", self.interface, "up")


@contextmanager
def two_hosts() -> Iterator[tuple[Host, Host]]:
    """Both with an address on one cable. `OSError` or `CalledProcessError` where the machine does not let us."""
    stem = f"k2-{os.getpid()}"
    hosts = [Host(f"{stem}-{letter}", f"k2{letter}{os.getpid()}"[:15], f"10.213.0.{number}") for number, letter in ((1, "a"), (2, "b"))]
    first, second = hosts
    try:
        for host in hosts:
            _ip("netns", "add", host.namespace)
        _ip("link", "add", first.interface, "netns", first.namespace, "type", "veth", "peer", second.interface, "netns", second.namespace)
        for host in hosts:
            _ip("-n", host.namespace, "address", "add", f"{host.address}/24", "dev", host.interface)
            for interface in ("lo", host.interface):
                _ip("-n", host.namespace, "link", "set", interface, "up")
            subprocess.run([*host.inside, "true"], check=True, capture_output=True)
        yield first, second
    finally:
        for host in hosts:
            with suppress(OSError, subprocess.CalledProcessError):
                _ip("netns", "delete", host.namespace)


def why_not() -> str | None:
    """Why there cannot be two hosts here; None where there can."""
    try:
        with two_hosts():
            return None
    except OSError as error:
        return f"no program {error.filename}"
    except subprocess.CalledProcessError as error:
        return f"{' '.join(error.cmd)}: {error.stderr.decode(errors='replace').strip()}"


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
