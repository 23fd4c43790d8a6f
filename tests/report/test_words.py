"""Numbers as people read them."""

import math

import pytest

from k2.report.words import carbon, count, duration, energy, loss, number, percent, rate


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (count(1_415_312_179_200), "1.42 T"),
        (count(65_286_184_960), "65.3 B"),
        (count(79_744), "79,744"),
        (number(41.254), "41.25"),
        (number(0), "0"),
        (number(3.2e-7), "3.20 × 10⁻⁷"),
        (number(math.nan), "NaN"),
        (number(math.inf), "∞"),
        (loss(2.35), "2.350"),
        (loss(math.nan), "NaN"),
        (rate(1.5e-4), "1.50e-4"),
        (rate(0.0), "0"),
        (percent(0.4494), "44.9 %"),
        (percent(1.0), "100 %"),
        (duration(3.21), "3.2 s"),
        (duration(200), "3 min 20 s"),
        (duration(6.36 * 3600), "6.4 h"),
        (duration(100 * 86400), "100.0 days"),
        (energy(430.848), "430.8 MWh"),
        (energy(0.0000041), "4.1 Wh"),
        (energy(0.00123), "1.23 kWh"),
        (carbon(165.876), "165.9 t"),
        (carbon(0.0000016), "1.6 g"),
    ],
)
def test_words(text: str, expected: str) -> None:
    assert text.replace("\u00a0", " ") == expected
