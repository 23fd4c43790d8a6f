"""All checks in the order in which they are shown: from the ground up to what leaves the host."""

from collections.abc import Iterator
from dataclasses import replace

from flows.doctor.check import Check, Patient
from flows.doctor.devices import device_of, judge_devices, these_devices
from flows.doctor.machine import check_machine
from flows.doctor.materials import check_materials
from flows.doctor.network import check_network
from flows.doctor.outside import check_outside
from flows.doctor.software import check_software
from flows.doctor.storage import check_storage
from k2.publish.failure import without_secrets


def examine(patient: Patient) -> Iterator[Check]:
    """Every check, one after the other, no secret in its words. `RecipeError` for a place that cannot train the recipe."""
    for check in _examine(patient):
        yield replace(check, found=without_secrets(check.found), hint=without_secrets(check.hint))


def _examine(patient: Patient) -> Iterator[Check]:
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
