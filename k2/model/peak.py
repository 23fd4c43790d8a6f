"""Model FLOPs utilization: the useful part of what a device could have computed, in the field's two conventions.

Torch-free. The peaks are the makers' for dense bfloat16 products, by the names that CUDA gives the devices. A device that is
not listed gets no figure: codes that fell back to another one's peak have printed 104 and 563 %.
"""

from dataclasses import dataclass

from k2.model.count import count_parameters
from k2.recipe.schema import Model

PEAK_TFLOPS = {
    "NVIDIA H200": 989.0,
    "NVIDIA H100 80GB HBM3": 989.0,  # SXM
    "NVIDIA H100 NVL": 835.0,
    "NVIDIA H100 PCIe": 756.0,
    "NVIDIA A100-SXM4-80GB": 312.0,
    "NVIDIA A100-SXM4-40GB": 312.0,
    "NVIDIA A100 80GB PCIe": 312.0,
    "NVIDIA A100-PCIE-40GB": 312.0,
}


class UnknownPeak(ValueError):
    """A device of which no peak is known: its utilization would be a guess."""


@dataclass(frozen=True)
class Utilization:
    """Fractions of the peak: attention's products counted as the whole square (12 L d s), and as the half that a causal mask leaves."""

    full: float
    causal: float


def peak_tflops(device: str) -> float:
    """TFLOP/s of dense bfloat16 products."""
    if device not in PEAK_TFLOPS:
        raise UnknownPeak(f"no peak is known of the device {device!r}, so no MFU is given; known are {', '.join(sorted(PEAK_TFLOPS))}")
    return PEAK_TFLOPS[device]


def known_utilization(model: Model, context: int, tokens_per_second: float, device: str) -> Utilization | None:
    """The same, or nothing of a device whose peak is unknown."""
    return utilization(model, context, tokens_per_second, device) if device in PEAK_TFLOPS else None


def utilization(model: Model, context: int, tokens_per_second: float, device: str) -> Utilization:
    """Of one device training `tokens_per_second`. The input embedding is looked up and not multiplied: it does not count."""
    possible = peak_tflops(device) * 1e12
    products = 6 * count_parameters(model).without_embedding
    attention = 12 * model.layers * model.hidden * context
    return Utilization((products + attention) * tokens_per_second / possible, (products + attention / 2) * tokens_per_second / possible)
