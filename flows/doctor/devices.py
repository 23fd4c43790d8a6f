"""The CUDA devices against the ranks, the evaluators and the torch that is installed. torch itself is not asked: it takes seconds.

What is known of the devices is the driver's word (`nvidia-smi`); which of them a process sees is counted as the launcher counts.
"""

import os
import re
import subprocess
from collections.abc import Iterator, Mapping
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

_FULL = 0.9  # of a device's memory: what the allocator cannot use, and the libraries' own buffers


@dataclass(frozen=True)
class Card:
    """One device, as its driver names it."""

    name: str
    memory: int
    capability: tuple[int, int]


@dataclass(frozen=True)
class Devices:
    """What this host shows. `torch_cuda` is the CUDA that torch was built with; `flash` whether flash-attn is installed."""

    count: int
    cards: tuple[Card, ...]
    torch_cuda: str | None
    flash: bool
    inherited: Mapping[str, str]

    @property
    def visible(self) -> int:
        return len(visible_devices(self.inherited, self.count)) if self.count else 0


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
    names = ", ".join(sorted({card.name for card in devices.cards})) or "NVIDIA"
    found = f"{devices.visible} x {names} to be seen; ranks on this host, a device each: {needed}"
    if devices.visible < needed:
        hint = "use more hosts (nodes of the place) or another world, or unset CUDA_VISIBLE_DEVICES where it hides some"
        yield fails("device", found, hint)
        return
    yield fine("device", found)
    yield from _judge_cards(patient, devices)


def _judge_cards(patient: Patient, devices: Devices) -> Iterator[Check]:
    if not devices.cards:
        yield note("driver", "nvidia-smi does not answer: memory and peak of the devices are not known", "see whether the driver is well")
        return
    smallest = min(devices.cards, key=lambda card: card.memory)
    if patient.recipe is not None:
        need = plan(patient.recipe).memory_bytes_per_rank.total
        found = f"{sized(smallest.memory)} a device; the fullest rank takes about {sized(need)}"
        if need > smallest.memory:
            yield fails("device memory", found, "more tensor or pipeline ranks, smaller micro-batches, recomputation, or larger devices")
        elif need > _FULL * smallest.memory:
            yield note("device memory", found, "that fits barely, if at all: smaller micro-batches or recomputation make room")
        else:
            yield fine("device memory", found)
    for name in sorted({card.name for card in devices.cards} - set(PEAK_TFLOPS)):
        yield note("peak", f"of the device {name!r} none is known, so no MFU will be given", "add it to k2/model/peak.py")


def _judge_evaluators(patient: Patient, devices: Devices) -> Iterator[Check]:
    try:
        found = seats(patient.place, devices.inherited, devices.count)
    except ValueError as error:
        yield fails("evaluators", f"evaluator_devices = {list(patient.place.evaluator_devices)} cannot all be had", str(error))
        return
    yield fine("evaluators", ", ".join(seat.name for seat in found))


def _judge_attention(patient: Patient, device: Device, devices: Devices) -> Iterator[Check]:
    if patient.recipe is None or (device == "cuda" and not devices.cards):
        return
    capability = devices.cards[0].capability if device == "cuda" else None
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
    query = ("nvidia-smi", "--query-gpu=name,memory.total,compute_cap", "--format=csv,noheader,nounits")
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()
    return read_cards(done.stdout)


def read_cards(text: str) -> tuple[Card, ...]:
    """The lines of nvidia-smi: a name, MiB, a capability. A line that says something else is left out."""
    found = re.findall(r"^\s*(.+?), (\d+), (\d+)\.(\d+)\s*$", text, re.MULTILINE)
    return tuple(Card(name, int(mib) << 20, (int(major), int(minor))) for name, mib, major, minor in found)
