"""Energy that the machine itself counts: processor packages by RAPL, NVIDIA devices by NVML. None where neither can be read.

The counters are of the host that asks; what is not counted (memory, fans, other hosts) stays to the declared figures.
Source: the kernel's powercap interface (`energy_uj`, which wraps at `max_energy_range_uj`); NVML's total energy consumption, millijoules.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")


@dataclass(frozen=True)
class Counter:
    """One counter: what it says now, in joules, and where it wraps (0: never)."""

    read: Callable[[], float]
    wraps_at: float


class PowerMeter:
    """Joules used since the last asking, over all counters that this host lets be read."""

    def __init__(self, powercap: Path = POWERCAP, devices: bool = True) -> None:
        self._counters = [*_packages(powercap), *(_devices() if devices else ())]
        self._last = [counter.read() for counter in self._counters]

    def joules(self) -> float | None:
        """Since the last call, or since the meter was made. None where the machine counts nothing."""
        if not self._counters:
            return None
        now = [counter.read() for counter in self._counters]
        used = sum(_risen(then, at, counter) for then, at, counter in zip(self._last, now, self._counters, strict=True))
        self._last = now
        return used


def on_one_host() -> bool:
    """Whether all ranks share this host, by what torchrun says."""
    return os.environ.get("LOCAL_WORLD_SIZE", "1") == os.environ.get("WORLD_SIZE", "1")


def _risen(then: float, now: float, counter: Counter) -> float:
    return now - then if now >= then else now - then + counter.wraps_at


def _packages(powercap: Path) -> list[Counter]:
    """One counter a processor package; what lies below a package is part of it."""
    return [counter for zone in sorted(powercap.glob("intel-rapl:*")) if zone.name.count(":") == 1 and (counter := _package(zone))]


def _package(zone: Path) -> Counter | None:
    try:
        wraps_at = int((zone / "max_energy_range_uj").read_text()) / 1e6
        (zone / "energy_uj").read_text()  # root's alone on many machines
    except (OSError, ValueError):
        return None
    return Counter(lambda: int((zone / "energy_uj").read_text()) / 1e6, wraps_at)


def _devices() -> list[Counter]:
    """One counter an NVIDIA device that the process may see; none without the library or a device that counts."""
    try:
        import pynvml

        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        return [Counter(lambda h=handle: pynvml.nvmlDeviceGetTotalEnergyConsumption(h) / 1e3, 0.0) for handle in handles]  # type: ignore[misc]
    except Exception:  # the boundary to a driver: no library, no device, no right to ask; training goes on unmetered
        return []
