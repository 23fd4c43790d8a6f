"""The seats of evaluators: which device each works on, and what it is called by everybody on this machine. Pure."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from k2.recipe.place import Place

Device = Literal["cpu", "cuda"]


@dataclass(frozen=True)
class Seat:
    """Where one evaluator works. `visible` is what it may see of the CUDA devices; `name` is the device's own, whoever asks."""

    number: int  # among the place's, from 0
    device: Device
    visible: str
    name: str


FIRST_ON_CPU = Seat(0, "cpu", "", "cpu")


def seats(place: Place, inherited: Mapping[str, str], cuda_devices: int) -> tuple[Seat, ...]:
    """A seat for each device that the place names. A device that is named again gets a further process: `cpu-1` after `cpu`.

    `cuda_devices` is how many this machine has. One that is not there is refused: it would fail at whatever it took.
    """
    return tuple(_seats(place, visible_devices(inherited, cuda_devices)))


def visible_devices(inherited: Mapping[str, str], cuda_devices: int) -> list[str]:
    """The own names of those of this machine's devices that CUDA_VISIBLE_DEVICES leaves to be seen."""
    shown = inherited.get("CUDA_VISIBLE_DEVICES")
    every = [str(index) for index in range(cuda_devices)]
    return every if shown is None or not every else [one.strip() for one in shown.split(",") if one.strip()]


def _seats(place: Place, visible: Sequence[str]) -> Iterator[Seat]:
    before: Counter[str] = Counter()
    for number, named in enumerate(place.evaluator_devices):
        one = _visible(named, visible)
        name = f"cuda-{one}" if one else "cpu"
        again = f"-{before[name]}" if before[name] else ""
        before[name] += 1
        yield Seat(number, "cuda" if one else "cpu", one, name + again)


def _visible(named: str, visible: Sequence[str]) -> str:
    """The device's own name: CUDA counts those that are visible. Nothing for the CPU."""
    if named == "cpu":
        return ""
    index = int(named.partition(":")[2] or 0)
    if index >= len(visible):
        raise ValueError(
            f"place.evaluator_devices names {named}, but {len(visible)} CUDA devices are to be seen here, counted from 0 "
            "(CUDA_VISIBLE_DEVICES may hide some): name one of those, or cpu"
        )
    return visible[index]
