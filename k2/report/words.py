"""Numbers as people read them: counts, durations, sizes, energies. Each value enters plainly and leaves as text with its unit."""

import math

_LARGE = ((1e12, "T"), (1e9, "B"), (1e6, "M"))


def count(value: float) -> str:
    """1,234 · 12.3 M · 1.42 T"""
    for size, unit in _LARGE:
        if abs(value) >= size:
            return f"{value / size:.3g} {unit}" if abs(value) < 1000 * size else f"{value / size:,.0f} {unit}"
    return f"{value:,.0f}"


def number(value: float) -> str:
    """Four significant digits, without an exponent where one can do without."""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "∞"
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa} × 10{_raised(int(exponent))}"


def percent(fraction: float) -> str:
    """A fraction with as many digits as it deserves."""
    digits = 1 if fraction < 0.9995 else 0
    return f"{100 * fraction:.{digits}f} %"


def duration(seconds: float) -> str:
    """45 s · 3 min 20 s · 6.4 h · 12.3 days"""
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    if seconds < 3600:
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes} min {rest} s" if minutes < 10 and rest else f"{minutes} min"
    return f"{seconds / 3600:.1f} h" if seconds < 2 * 86400 else f"{seconds / 86400:.1f} days"


def energy(mwh: float) -> str:
    """430.8 MWh · 1.23 kWh · 4.1 Wh"""
    for factor, unit in ((1, "MWh"), (1e3, "kWh")):
        if mwh * factor >= 1:
            return f"{mwh * factor:,.4g} {unit}"
    return f"{mwh * 1e6:.3g} Wh"


def carbon(tonnes: float) -> str:
    """165.9 t · 1.2 kg · 1.6 g"""
    for factor, unit in ((1, "t"), (1e3, "kg")):
        if tonnes * factor >= 1:
            return f"{tonnes * factor:,.4g} {unit}"
    return f"{tonnes * 1e6:.3g} g"


def _raised(exponent: int) -> str:
    return str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
