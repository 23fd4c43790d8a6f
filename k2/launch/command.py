"""From a recipe, a place and an action to the argument list and environment of a process. Pure.

What enters is what is to run and the environment of whoever starts it; what leaves is a `Command`. Secrets stay
behind: a trainer neither uploads nor orchestrates, so nothing that looks like a credential is handed down.
"""

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from k2.launch.seats import FIRST_ON_CPU, Device, Seat
from k2.recipe.place import Place
from k2.recipe.schema import Recipe
from k2.recipe.world import ranks_per_node
from k2.run.layout import RunLayout
from k2.run.plan import Train
from k2.run.secrets import without_secrets

MARK = "K2_PROCESS"  # carried by every process of a run: how strays of a killed supervisor are told from others
_LOOPBACK = "127.0.0.1"
_SHUTDOWN_SECONDS = "5"  # what torchrun leaves its ranks when its supervisor was killed; when a rank fails it is 30, fixed
_MEETING_SECONDS = 300  # for the others to start torchrun: each has given signs of life just before
_LAUNCHER = re.compile(r"^(TORCHELASTIC_|PET_|MASTER_|(LOCAL_|GROUP_|ROLE_)?(RANK|WORLD_SIZE)$)")  # of a launcher above us


@dataclass(frozen=True)
class Supervision:
    """How a process is ended: seconds from SIGTERM to SIGKILL when asked, and when its parent has died."""

    grace_seconds: float = 30.0
    orphan_grace_seconds: float = 5.0  # a resume waits for it


USUAL_SUPERVISION = Supervision()


@dataclass(frozen=True)
class Meeting:
    """How this host meets the others of a place with several nodes: as which, from where, under the id of their call."""

    node: int
    address: str  # of this host, as the others reach it
    interface: str  # of that address
    id: str


@dataclass(frozen=True)
class Command:
    argv: tuple[str, ...]
    environment: Mapping[str, str]


def trainer_command(  # noqa: PLR0913 (the six things a launch depends on)
    recipe: Recipe,
    place: Place,
    layout: RunLayout,
    action: Train,
    inherited: Mapping[str, str],
    *,
    device: Device,
    supervision: Supervision = USUAL_SUPERVISION,
    lock: int | None = None,
    meeting: Meeting | None = None,
) -> Command:
    """torchrun over this host's share of the recipe's ranks, under a supervisor.

    Without a meeting they are all here, and meet on the loopback at a free port. `lock` is a descriptor, inherited, that keeps the run
    (or the node's seat) held as long as the supervisor lives, which outlives every rank.
    """
    assert (meeting is not None) == (place.nodes > 1), "several hosts meet, a single one does not"
    ranks = str(ranks_per_node(recipe, place))
    launcher = ("-m", "torch.distributed.run", *_rendezvous(place, meeting), "--nproc-per-node", ranks, "--max-restarts", "0")
    trainer = ("-m", "k2.train", str(layout.root.resolve()), "--stage", action.stage, "--attempt", str(action.attempt))
    start = ("--first-step", str(action.first_step), *(("--checkpoint", action.checkpoint) if action.checkpoint else ()))
    end = ("--last-step", str(action.last_step)) if action.last_step is not None else ()
    probe = ("--probe", str(action.probe)) if action.probe is not None else ()
    command = (sys.executable, *launcher, "--shutdown-timeout", _SHUTDOWN_SECONDS, *trainer, *start, *end, *probe)
    environment = _environment(inherited, place, device) | _interfaces(inherited, meeting)
    environment[MARK] = mark("trainer", layout, 0 if meeting is None else meeting.node)
    if place.wandb_mode == "online" and "WANDB_API_KEY" in inherited:
        environment["WANDB_API_KEY"] = inherited["WANDB_API_KEY"]
    return Command(_supervised(command, supervision, lock, ("--launcher",)), environment)


def evaluator_command(
    place: Place,
    layout: RunLayout,
    inherited: Mapping[str, str],
    *,
    requests: int,
    answers: int,
    seat: Seat = FIRST_ON_CPU,
    lock: int | None = None,
) -> Command:
    """The evaluator of a seat under a supervisor, reading requests from and writing answers to two inherited descriptors.

    It has nothing to save, so it is killed as soon as its parent dies; and it never asks a hub for anything.
    """
    command = (sys.executable, "-m", "k2.eval", str(layout.root.resolve()), "--device", seat.device)
    offline = {name: "1" for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")}
    environment = _environment(inherited, place, seat.device) | offline
    environment |= {MARK: mark("evaluator", layout, seat.number), "TOKENIZERS_PARALLELISM": "false", "CUDA_VISIBLE_DEVICES": seat.visible}
    pipes = ("--stdin-fd", str(requests), "--stdout-fd", str(answers))
    return Command(_supervised(command, Supervision(2.0, 0.0), lock, pipes), environment)


def mark(role: Literal["trainer", "evaluator"], layout: RunLayout, number: int = 0) -> str:
    """What `MARK` is set to in the processes of that role of that run; evaluators that work side by side are numbered, and nodes."""
    return f"{role}{number or ''}:{layout.root.resolve()}"


def _rendezvous(place: Place, meeting: Meeting | None) -> tuple[str, ...]:
    """Where hosts meet it is the static one: node 0 is the driver's, and torchrun unpickles nothing, as its c10d would.

    A single host's ranks are told the loopback: torchrun would tell them the host's own name, and where no resolver knows it they wait.
    """
    if meeting is None or place.rendezvous is None:
        return ("--standalone", "--local-addr", _LOOPBACK)
    who = ("--nnodes", str(place.nodes), "--node-rank", str(meeting.node), "--local-addr", meeting.address)
    where = ("--rdzv-backend", "static", "--rdzv-endpoint", place.rendezvous, "--rdzv-id", meeting.id)
    return (*who, *where, "--rdzv-conf", f"timeout={_MEETING_SECONDS}")


def _interfaces(inherited: Mapping[str, str], meeting: Meeting | None) -> dict[str, str]:
    """Over which interfaces gloo and NCCL talk, which otherwise take the address of the host's name. What several hosts are told stands."""
    if meeting is None:
        return {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "=lo"}
    found = {"GLOO_SOCKET_IFNAME": meeting.interface, "NCCL_SOCKET_IFNAME": f"={meeting.interface}"}  # eth1 alone begins eth10 too
    return {name: inherited.get(name, interface) for name, interface in found.items()}


def _supervised(command: tuple[str, ...], supervision: Supervision, lock: int | None, options: tuple[str, ...] = ()) -> tuple[str, ...]:
    graces = ("--grace", str(supervision.grace_seconds), "--orphan-grace", str(supervision.orphan_grace_seconds))
    held = () if lock is None else ("--lock-fd", str(lock))
    return (sys.executable, "-m", "k2.launch.supervise", *graces, *held, *options, "--", *command)


def _environment(inherited: Mapping[str, str], place: Place, device: Device) -> dict[str, str]:
    """What is handed down, with the place's threads and device."""
    kept = {name: value for name, value in without_secrets(inherited).items() if not _LAUNCHER.search(name)}
    threads = str(place.threads_per_rank)
    kept |= {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "PYTHONUNBUFFERED": "1"}
    if device == "cpu":
        kept |= {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    return kept
