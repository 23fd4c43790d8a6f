"""Numbers as people read them: counts, losses, durations, energies. A value enters plainly and leaves as text with its unit.

The space before a unit does not break a line.
"""

import math

_SPACE = "\u00a0"  # a space that does not break
_LARGE = ((1e12, "T"), (1e9, "B"), (1e6, "M"))


def count(value: float) -> str:
    """1,234 · 12.3 M · 1.42 T"""
    for size, unit in _LARGE:
        if abs(value) >= size:
            return f"{value / size:.3g}{_SPACE}{unit}" if abs(value) < 1000 * size else f"{value / size:,.0f}{_SPACE}{unit}"
    return f"{value:,.0f}"


def number(value: float) -> str:
    """Four significant digits, without an exponent where one can do without."""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "∞"
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa} × 10{_raised(int(exponent))}"


def loss(value: float) -> str:
    """Three decimals: what one compares losses by."""
    return f"{value:.3f}" if math.isfinite(value) else number(value)


def rate(value: float) -> str:
    """A learning rate: 1.50e-4, 0"""
    return "0" if value == 0 else f"{value:.2e}".replace("e-0", "e-")


def percent(fraction: float) -> str:
    """A fraction with as many digits as it deserves."""
    digits = 1 if fraction < 0.9995 else 0
    return f"{100 * fraction:.{digits}f}{_SPACE}%"


def duration(seconds: float) -> str:
    """45 s · 3 min 20 s · 6.4 h · 12.3 days"""
    if seconds < 60:
        text = f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    elif seconds < 3600:
        minutes, rest = divmod(round(seconds), 60)
        text = f"{minutes} min {rest} s" if minutes < 10 and rest else f"{minutes} min"
    else:
        text = f"{seconds / 3600:.1f} h" if seconds < 2 * 86400 else f"{seconds / 86400:.1f} days"
    return text.replace(" ", _SPACE)


def energy(mwh: float) -> str:
    """430.8 MWh · 1.23 kWh · 4.1 Wh"""
    return _in_largest(mwh, ((1, "MWh"), (1e3, "kWh"), (1e6, "Wh")))


def carbon(tonnes: float) -> str:
    """165.9 t · 1.2 kg · 1.6 g"""
    return _in_largest(tonnes, ((1, "t"), (1e3, "kg"), (1e6, "g")))


def _in_largest(value: float, units: tuple[tuple[float, str], ...]) -> str:
    """In the first unit that leaves at least 1, or in the last."""
    factor, unit = next(((factor, unit) for factor, unit in units if value * factor >= 1), units[-1])
    return f"{value * factor:,.4g}{_SPACE}{unit}"


def _raised(exponent: int) -> str:
    return str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
