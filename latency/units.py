"""Numbers for people: three digits, and the unit that keeps them short."""

from __future__ import annotations

import math


def duration(ms: float) -> str:
    """Milliseconds with the unit that fits: `1.2 us`, `34.5 ms`, `2.1 s`."""
    size = abs(ms)
    if not math.isfinite(ms) or size == 0:
        return f"{ms:g} ms"
    if size < 0.1:
        return f"{ms * 1e3:.3g} us"
    return f"{ms:.3g} ms" if size < 1000 else f"{ms / 1e3:.4g} s" if size < 1e6 else f"{ms / 3.6e6:.3g} h"


def rate(gmacs: float) -> str:
    """GMAC/s with the unit that fits: `850 MAC/s`, `12 MMAC/s`, `3.2 GMAC/s`, `3.2 TMAC/s`."""
    if not math.isfinite(gmacs) or gmacs <= 0:
        return f"{gmacs:g} GMAC/s"
    for size, letter in ((1e3, "T"), (1.0, "G"), (1e-3, "M"), (1e-6, "k")):
        if gmacs >= 0.9995 * size:
            return f"{gmacs / size:.3g} {letter}MAC/s"
    return f"{gmacs * 1e9:.3g} MAC/s"
