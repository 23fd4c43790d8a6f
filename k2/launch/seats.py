"""The seats of evaluators: which device each works on, and what it is called by everybody on this machine. Pure."""

from collections import Counter
from collections.abc import Iterator, Mapping
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


def seats(place: Place, inherited: Mapping[str, str]) -> tuple[Seat, ...]:
    """A seat for each device that the place names. A device that is named again gets a further process: `cpu-1` after `cpu`."""
    return tuple(_seats(place, inherited.get("CUDA_VISIBLE_DEVICES")))


def _seats(place: Place, visible: str | None) -> Iterator[Seat]:
    before: Counter[str] = Counter()
    for number, named in enumerate(place.evaluator_devices):
        kind, _, index = named.partition(":")
        one = _visible(named, int(index or 0), visible) if kind == "cuda" else ""
        name = f"cuda-{one}" if one else "cpu"
        again = f"-{before[name]}" if before[name] else ""
        before[name] += 1
        yield Seat(number, "cuda" if one else "cpu", one, name + again)


def _visible(named: str, index: int, visible: str | None) -> str:
    """The device's own name: CUDA counts those that are visible."""
    if visible is None:
        return str(index)
    there = [one.strip() for one in visible.split(",") if one.strip()]
    if index >= len(there):
        raise ValueError(
            f"place.evaluator_devices names {named}, but CUDA_VISIBLE_DEVICES = {visible!r} shows {len(there)} devices, counted from 0: "
            "name one of those, or cpu"
        )
    return there[index]
