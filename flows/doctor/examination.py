"""All checks in the order in which they are shown: from the ground up to what leaves the host."""

from collections.abc import Iterator

from flows.doctor.check import Check, Patient
from flows.doctor.devices import device_of, judge_devices, these_devices
from flows.doctor.machine import check_machine
from flows.doctor.materials import check_materials
from flows.doctor.network import check_network
from flows.doctor.outside import check_outside
from flows.doctor.software import check_software
from flows.doctor.storage import check_storage


def examine(patient: Patient) -> Iterator[Check]:
    """Every check, one after the other. `RecipeError` for a place that cannot train the recipe."""
    patient = patient.in_its_world()
    devices = these_devices()
    device = device_of(patient, devices)
    yield from check_software(patient)
    yield from check_storage(patient)
    yield from check_machine(patient, device)
    yield from judge_devices(patient, device, devices)
    yield from check_network(patient)
    yield from check_materials(patient)
    yield from check_outside(patient)
