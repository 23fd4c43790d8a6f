"""The CUDA devices against the ranks, the evaluators and the torch that is installed. torch itself is not asked: it takes seconds.

What is known of the devices is the driver's word (`nvidia-smi`); which of them a process sees is counted as the launcher counts.
"""

import os
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path

from flows.doctor.check import Check, Patient, fails, fine, note
from k2.estimate import plan, sized
from k2.launch.process import count_cuda_devices, find_device
from k2.launch.seats import Device, seats, visible_devices
from k2.model.backend import Machine, choose_backend
from k2.model.peak import PEAK_TFLOPS

_OLDEST_DRIVERS = {11: 450, 12: 525, 13: 580}  # of each CUDA, by NVIDIA's table of minor version compatibility
_FULL = 0.9  # of a device's memory: what the allocator cannot use, and the libraries' own buffers


@dataclass(frozen=True)
class Card:
    """One device, as its driver tells of it. `memory_free` is what other processes leave of `memory`."""

    name: str
    memory: int
    memory_free: int
    capability: tuple[int, int]
    driver: str


@dataclass(frozen=True)
class Devices:
    """What this host shows. `torch_cuda` is the CUDA that torch was built with; `flash` whether flash-attn is installed."""

    count: int
    cards: tuple[Card, ...]
    torch_cuda: str | None
    flash: bool
    inherited: Mapping[str, str]

    @property
    def visible(self) -> list[str]:
        return visible_devices(self.inherited, self.count) if self.count else []

    @property
    def seen(self) -> tuple[Card, ...]:
        """The cards that are visible; all of them where they are not named by number."""
        numbers = [int(name) for name in self.visible if name.isdigit() and int(name) < len(self.cards)]
        return tuple(self.cards[number] for number in numbers) or self.cards


def device_of(patient: Patient, devices: Devices) -> Device:
    """Where the ranks will compute: as the launcher finds it, and on the CPU where `auto` meets a torch that knows nothing else."""
    chosen = find_device(patient.place)
    return "cpu" if patient.place.device == "auto" and devices.torch_cuda is None else chosen


def judge_devices(patient: Patient, device: Device, devices: Devices) -> Iterator[Check]:
    """The training's devices, the evaluators', and the code of attention."""
    yield from _judge_cpu(patient, devices) if device == "cpu" else _judge_cuda(patient, devices)
    yield from _judge_evaluators(patient, devices)
    yield from _judge_attention(patient, device, devices)


def _judge_cpu(patient: Patient, devices: Devices) -> Iterator[Check]:
    if patient.place.device == "cpu":
        yield fine("device", 'the CPU, as the place says (device = "cpu")')
    elif devices.count == 0:
        yield note("device", "the CPU: no driver of an NVIDIA device is here")
    elif devices.torch_cuda is None:
        hint = "install torch for CUDA (`make` takes it from TORCH), if the devices are to train"
        yield note("device", f"the CPU: {devices.count} NVIDIA devices are here, but this torch is built without CUDA", hint)
    else:
        yield note("device", f"the CPU: CUDA_VISIBLE_DEVICES hides the {devices.count} devices", "unset it, if the devices are to train")


def _judge_cuda(patient: Patient, devices: Devices) -> Iterator[Check]:
    needed = patient.ranks_here or 1
    asked = f'device = "{patient.place.device}" of the place'
    if devices.count == 0:
        yield fails("device", f"{asked}, and no driver of an NVIDIA device is here", 'install the driver, or set device to "cpu" or "auto"')
        return
    if devices.torch_cuda is None:
        yield fails("device", f"{asked}, and this torch is built without CUDA", "install torch for CUDA (`make` takes it from TORCH)")
        return
    names = ", ".join(sorted({card.name for card in devices.seen})) or "NVIDIA"
    found = f"{len(devices.visible)} x {names} to be seen; ranks on this host, a device each: {needed}"
    if len(devices.visible) < needed:
        hint = "use more hosts (nodes of the place) or another world, or unset CUDA_VISIBLE_DEVICES where it hides some"
        yield fails("device", found, hint)
        return
    yield fine("device", found)
    yield from _judge_cards(patient, devices)


def _judge_cards(patient: Patient, devices: Devices) -> Iterator[Check]:
    if not devices.seen:
        yield note("driver", "nvidia-smi does not answer: memory and peak of the devices are not known", "see whether the driver is well")
        return
    yield _judge_driver(devices.seen[0].driver, devices.torch_cuda or "")
    if patient.recipe is not None:
        yield _judge_device_memory(devices.seen, plan(patient.recipe).memory_bytes_per_rank.total)
    for name in sorted({card.name for card in devices.seen} - set(PEAK_TFLOPS)):
        yield note("peak", f"of the device {name!r} none is known, so no MFU will be given", "add it to k2/model/peak.py")


def _judge_driver(driver: str, cuda: str) -> Check:
    oldest = _OLDEST_DRIVERS.get(int(cuda.partition(".")[0] or 0), 0)
    found = f"{driver}; torch is built with CUDA {cuda}"
    if int(driver.partition(".")[0]) < oldest:
        return fails("driver", f"{found}, which needs {oldest} or newer", "update the driver, or install torch for an older CUDA")
    return fine("driver", found)


def _judge_device_memory(cards: Sequence[Card], need: int) -> Check:
    card = min(cards, key=lambda card: card.memory_free)
    name, found = "device memory", f"{sized(card.memory_free)} free of {sized(card.memory)}; the fullest rank takes about {sized(need)}"
    if need > card.memory:
        return fails(name, found, "more tensor or pipeline ranks, smaller micro-batches, recomputation, or larger devices")
    if need > card.memory_free:
        return fails(name, found, "other processes hold the rest of a device: `nvidia-smi` names them")
    if need > _FULL * card.memory:
        return note(name, found, "that fits barely, if at all: smaller micro-batches or recomputation make room")
    return fine(name, found)


def _judge_evaluators(patient: Patient, devices: Devices) -> Iterator[Check]:
    try:
        found = seats(patient.place, devices.inherited, devices.count)
    except ValueError as error:
        yield fails("evaluators", f"evaluator_devices = {list(patient.place.evaluator_devices)} cannot all be had", str(error))
        return
    yield fine("evaluators", ", ".join(seat.name for seat in found))


def _judge_attention(patient: Patient, device: Device, devices: Devices) -> Iterator[Check]:
    if patient.recipe is None or (device == "cuda" and not devices.seen):
        return
    capability = devices.seen[0].capability if device == "cuda" else None
    try:
        yield fine("attention", choose_backend(patient.recipe, patient.place, Machine(capability, devices.flash)))
    except ValueError as error:
        yield fails("attention", f'attention = "{patient.place.attention}" cannot be had here', str(error))


def these_devices() -> Devices:
    count = count_cuda_devices()
    flash = find_spec("flash_attn") is not None
    return Devices(count, _ask_driver() if count else (), torch_cuda(), flash, dict(os.environ))


def torch_cuda() -> str | None:
    """The CUDA that the installed torch was built with, read from its version file; None of a CPU build, or where there is no torch."""
    try:
        text = Path(str(distribution("torch").locate_file("torch/version.py"))).read_text("utf-8")
    except (PackageNotFoundError, OSError):
        return None
    found = re.search(r"^cuda\b[^=]*=\s*'([\d.]+)'", text, re.MULTILINE)
    return found[1] if found else None


def _ask_driver() -> tuple[Card, ...]:
    query = ("nvidia-smi", "--query-gpu=memory.total,memory.free,compute_cap,driver_version,name", "--format=csv,noheader,nounits")
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()
    return read_cards(done.stdout)


def read_cards(text: str) -> tuple[Card, ...]:
    """The lines of nvidia-smi: MiB, MiB free, a capability, a driver's version, a name. A line that says something else is left out."""
    found = re.findall(r"^(\d+), (\d+), (\d+)\.(\d+), (\d+[\d.]*), (.+?)\s*$", text, re.MULTILINE)
    return tuple(
        Card(name, int(mib) << 20, int(free) << 20, (int(major), int(minor)), driver) for mib, free, major, minor, driver, name in found
    )
