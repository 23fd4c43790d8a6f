"""A supervised process of this host: starting it, ending it, and a line of JSON to it and back.

What enters is a `Command`; its output is appended to a log. The supervisor reads the parent's death as the end of
its standard input, so that pipe is held open for as long as the parent lives and is used for nothing else.
"""

import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from k2.launch.command import Command
from k2.launch.seats import Device
from k2.recipe.place import Place

_REAPING_SECONDS = 30.0  # a killed rank may take a while to give back its memory


def find_device(place: Place) -> Device:
    """The place's device; `auto` means cuda where the driver of an NVIDIA device is there and not hidden."""
    if place.device != "auto":
        return place.device
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "all")
    return "cuda" if Path("/dev/nvidiactl").exists() and visible not in ("", "-1") else "cpu"


def count_cuda_devices() -> int:
    """How many NVIDIA devices this machine shows, whatever CUDA_VISIBLE_DEVICES leaves of them."""
    return sum(path.name.removeprefix("nvidia").isdigit() for path in Path("/dev").glob("nvidia*"))


def launch(command: Command, log: Path, inherited: tuple[int, ...] = ()) -> subprocess.Popen[bytes]:
    """Start the command in its own session, its output appended to `log`, keeping the `inherited` descriptors open."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        return subprocess.Popen(
            command.argv,
            env=dict(command.environment),
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=inherited,
            start_new_session=True,
        )


def end(process: subprocess.Popen[bytes], number: signal.Signals, grace_seconds: float) -> int:
    """Send the supervisor a signal and wait for it to have ended everything; its exit code.

    The signal is sent again every second: one that comes while the supervisor is just starting may be lost, as what a shell
    starts in the background ignores SIGQUIT until it says otherwise. Asking twice shortens no grace.
    """
    deadline = time.monotonic() + grace_seconds + _REAPING_SECONDS
    while True:
        process.send_signal(number)
        try:
            return process.wait(1.0)
        except subprocess.TimeoutExpired:
            if time.monotonic() >= deadline:
                raise


class Line:
    """A running process that answers JSON lines, and the two pipes to it. One thread talks; any may `kill`."""

    def __init__(self, make_command: Callable[[int, int], Command], log: Path, held: tuple[int, ...] = ()) -> None:
        """`make_command` is given the descriptors of the process's input and output."""
        requests, self._say = os.pipe()
        self._hear, answers = os.pipe()
        try:
            self._process = launch(make_command(requests, answers), log, (requests, answers, *held))
        finally:
            os.close(requests)
            os.close(answers)
        self._heard = b""

    def say(self, request: dict[str, str | int]) -> None:
        """Send one line. `EOFError` when the process is gone."""
        try:
            os.write(self._say, json.dumps(request).encode() + b"\n")
        except BrokenPipeError as error:
            raise EOFError from error

    def hear(self, deadline: float) -> bytes:
        """The next line. `EOFError` when the process is gone, `TimeoutError` when the monotonic deadline passes."""
        while b"\n" not in self._heard:
            ready, _, _ = select.select([self._hear], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError
            block = os.read(self._hear, 65536)
            if not block:
                raise EOFError
            self._heard += block
        line, _, self._heard = self._heard.partition(b"\n")
        return line

    def kill(self) -> None:
        """End the process at once."""
        end(self._process, signal.SIGQUIT, 0.0)

    def close(self) -> None:
        """End the process and give the pipes back."""
        self.kill()
        os.close(self._say)
        os.close(self._hear)
