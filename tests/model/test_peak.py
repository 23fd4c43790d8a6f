"""Utilization in both conventions, and never of a device whose peak is unknown."""

import pytest

from k2.model.peak import UnknownPeak, peak_tflops, utilization
from k2.recipe.load import load_recipe


def test_k2s_own_training_in_both_conventions():
    """341 tokens a second on each A100: 44.4 % and 43.6 % by an independent count, which took the embedding in (0.4 %)."""
    used = utilization(load_recipe("k2_65b").model, 2048, 341.0, "NVIDIA A100-SXM4-80GB")
    assert used.full == pytest.approx(0.444, abs=0.003)
    assert used.causal == pytest.approx(0.436, abs=0.003)


def test_hopper_has_its_own_peak():
    assert peak_tflops("NVIDIA H200") == peak_tflops("NVIDIA H100 80GB HBM3") == 989.0
    assert peak_tflops("NVIDIA H100 PCIe") < 989.0


@pytest.mark.parametrize("device", ["cpu", "NVIDIA H300", "NVIDIA GeForce RTX 4090", ""])
def test_an_unknown_device_gets_no_figure(device):
    with pytest.raises(UnknownPeak, match="no peak is known of the device"):
        utilization(load_recipe("k2_1b").model, 2048, 50_000.0, device)
