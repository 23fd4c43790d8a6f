"""The jail for programs that a model wrote: one process of bubblewrap each, and one question, whether the program ran to its end.

Enters: a program's text. Leaves: a `Verdict`. Inside there is no network, no environment, no file but Python's own, read-only, and an
empty temporary folder in memory; CPU, memory, file sizes, open files and processes are limited; what the program prints goes nowhere;
and when its time is up, or it ends, every process of it is gone with its process namespace. Without a working jail nothing is run.

The verdict comes over a pipe of its own: a key, drawn for each run, that the runner is only sent when the program has ended, and has to
send back. Printing "passed", leaving early, or writing to any descriptor does not say it. (A program that walks the interpreter's frames
and knows this very file could still lie: judge and judged share an interpreter, as in every judge of HumanEval's kind.)
"""

import json
import os
import secrets
import select
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from io import FileIO
from pathlib import Path

PROCESS_NAME = "k2-jailed"  # an argument of every process in a jail
_REASON_BYTES = 300
_START_SECONDS = 10.0  # for bubblewrap and Python on a loaded machine; measured: 0.03 s
_FOLDER = "/tmp"  # noqa: S108 (the jail's own, in memory)
_DROPPED_TO = 64_321  # user and group of nobody here, taken on where root starts the jail


@dataclass(frozen=True)
class Limits:
    """What one program may use. Three seconds are what the reference judge of HumanEval gives."""

    seconds: float = 3.0
    memory_bytes: int = 1 << 30
    file_bytes: int = 1 << 20
    folder_bytes: int = 64 << 20
    open_files: int = 32
    processes: int = 16


@dataclass(frozen=True)
class Verdict:
    """`passed`: the program ran to its end. `reason` is why not; its text may be the program's own and is not to be trusted."""

    passed: bool
    reason: str


class NoJail(RuntimeError):
    """No program is run, as no jail works here. The text says why and what would help."""


USUAL_LIMITS = Limits()

# Runs as the jail's first process. It is given the program, then the limits are set, then the program runs; the key comes last.
_RUNNER = """
import json, os, resource, sys
source, keys, answers = int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
with open(source, "rb") as file:
    asked = json.load(file)
null = os.open("/dev/null", os.O_RDWR)
for descriptor in (0, 1, 2):
    os.dup2(null, descriptor)
limits, kind = asked["limits"], resource
cpu = int(limits["seconds"]) + 1
for what, most in ((kind.RLIMIT_AS, limits["memory_bytes"]), (kind.RLIMIT_CPU, cpu), (kind.RLIMIT_FSIZE, limits["file_bytes"]),
                   (kind.RLIMIT_NOFILE, limits["open_files"]), (kind.RLIMIT_NPROC, limits["processes"]), (kind.RLIMIT_CORE, 0)):
    resource.setrlimit(what, (most, most))
if asked["user"]:
    os.setgroups([]), os.setgid(asked["user"]), os.setuid(asked["user"])
os.write(answers, b"+")
try:
    exec(compile(asked["program"], "program", "exec"), {"__name__": "__main__"})
except BaseException as error:
    reason = "-" + type(error).__name__ + ": " + str(error)
else:
    reason = ""
if reason:
    os.write(answers, reason.encode("utf-8", "replace")[:200])
else:
    os.write(answers, b"?")
    os.write(answers, os.read(keys, 64))
os._exit(0)
"""


def run_jailed(program: str, limits: Limits = USUAL_LIMITS) -> Verdict:
    """Run the program in a jail of its own. `NoJail` where none works."""
    why_not = jail_missing()
    if why_not is not None:
        raise NoJail(why_not)
    return _run(program, limits)


@lru_cache(maxsize=1)
def jail_missing() -> str | None:
    """Why no jail works here; None where one does, as two programs have shown: one that ends and one that would reach the network."""
    if shutil.which("bwrap") is None:
        return "bubblewrap is not installed, and programs that a model wrote are run in its jail only: install it (Debian: bubblewrap)"
    try:
        well, ill = _run("x = 1", USUAL_LIMITS), _run("import socket; socket.create_connection(('127.0.0.1', 9), 1)", USUAL_LIMITS)
    except OSError as error:
        return f"bubblewrap cannot be started: {error}"
    if not well.passed or ill.passed:
        return f"bubblewrap does not work here ({well.reason or 'its programs reach the network'}): it needs user namespaces, or root"
    return None


def _run(program: str, limits: Limits) -> Verdict:
    user = _DROPPED_TO if os.geteuid() == 0 else 0
    asked = json.dumps({"program": program, "limits": asdict(limits), "user": user}).encode()
    with ExitStack() as stack:
        (source, source_in), (keys, keys_in), (answers_out, answers) = (_pipe(stack) for _ in range(3))
        inside = (source, keys, answers)
        command = [*_bubblewrap(limits), *_python(), "-c", _RUNNER, PROCESS_NAME, *(str(end.fileno()) for end in inside)]
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
            pass_fds=[end.fileno() for end in inside], env={},
        )  # fmt: skip
        stack.callback(_end, process)
        for end in inside:
            end.close()
        with suppress(BrokenPipeError), source_in:  # a jail that did not start closes its end
            source_in.writelines([asked])
        return _listen(answers_out, keys_in, limits)


def _listen(answers: FileIO, keys: FileIO, limits: Limits) -> Verdict:
    """The runner's answers: that it begins, then why the program did not end, or the key that it is sent when it has."""
    if _hear(answers, time.monotonic() + _START_SECONDS, 1) != b"+":
        return Verdict(False, "the jail did not start")
    deadline = time.monotonic() + limits.seconds
    heard = _hear(answers, deadline, 1)
    if heard == b"?":
        key = secrets.token_hex(16).encode()
        with suppress(BrokenPipeError):
            keys.write(key)
        said = secrets.compare_digest(_hear(answers, deadline + 1, len(key)), key)
        return Verdict(said, "" if said else "wrote to the judge's pipe itself")
    if heard == b"-":
        return Verdict(False, _hear(answers, deadline, _REASON_BYTES).decode("utf-8", "replace"))
    timed_out = time.monotonic() >= deadline
    return Verdict(False, f"did not end within {limits.seconds:g} s" if timed_out else "its process ended, but not at the program's end")


def _hear(answers: FileIO, deadline: float, length: int) -> bytes:
    """Up to `length` bytes; fewer when the deadline passes or the other side has closed."""
    heard = b""
    while len(heard) < length:
        ready, _, _ = select.select([answers], [], [], max(0.0, deadline - time.monotonic()))
        part = os.read(answers.fileno(), length - len(heard)) if ready else b""
        heard += part
        if not part:
            break
    return heard


def _end(process: "subprocess.Popen[bytes]") -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _pipe(stack: ExitStack) -> tuple[FileIO, FileIO]:
    """A pipe to read from and to write to, closed with the stack at the latest."""
    out, into = os.pipe()
    return stack.enter_context(FileIO(out, "rb")), stack.enter_context(FileIO(into, "wb"))


def _bubblewrap(limits: Limits) -> list[str]:
    """The jail's walls. Root keeps the right to become nobody, and the runner does; others get a user namespace of their own."""
    if os.geteuid() == 0:
        user = ["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--cap-drop", "ALL"]
        user += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    else:
        user = ["--unshare-all", "--uid", "65534", "--gid", "65534", "--cap-drop", "ALL"]
    return [
        "bwrap", *user, "--die-with-parent", "--new-session", "--clearenv", "--hostname", "jail",
        "--ro-bind", "/usr", "/usr", *_python_folder(),
        *(word for link in ("lib", "lib64", "bin") for word in _system_link(link)),
        "--dev", "/dev", "--perms", "1777", "--size", str(limits.folder_bytes), "--tmpfs", _FOLDER, "--chdir", _FOLDER, "--",
    ]  # fmt: skip


def _system_link(name: str) -> list[str]:
    """`/lib` and its like as they are here: a link into /usr, or a folder of its own."""
    path = Path("/") / name
    if path.is_symlink():
        return ["--symlink", str(path.readlink()), str(path)]
    return ["--ro-bind", str(path), str(path)] if path.is_dir() else []


def _python() -> list[str]:
    """The interpreter without site-packages: a program has the standard library alone."""
    return [str(Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"), "-I", "-S"]


def _python_folder() -> list[str]:
    """The interpreter's folder where it lies beyond /usr; the folders above it are made anew, for anybody to enter."""
    base = Path(sys.base_prefix).resolve()
    if base.is_relative_to("/usr"):
        return []
    above = [word for path in reversed(base.parents[:-1]) for word in ("--perms", "0755", "--dir", str(path))]
    return [*above, "--ro-bind", str(base), str(base)]
