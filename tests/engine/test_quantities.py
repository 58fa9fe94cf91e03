"""Numbers with units are short and readable."""

from __future__ import annotations

import pytest

from engine.quantities import accuracy_text, amount, duration, quantity, rate


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, "0"),
        (12.3456, "12.3"),
        (999, "999"),
        (999.4, "999"),
        (999.6, "1 k"),
        (1000, "1 k"),
        (5_288_548, "5.29 M"),
        (999_600, "1 M"),
        (4.09e9, "4.09 G"),
        (2.5e12, "2.5 T"),
        (-3500, "-3.5 k"),
    ],
)
def test_amounts_have_three_digits_and_never_an_exponent(value, expected):
    assert amount(value) == expected


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        (300e6, "MACs", "300 M MACs"),
        (4_230_000, "parameters", "4.23 M parameters"),
        (1_572_864, "bytes", "1.573 MB"),
        (512, "bytes", "512 bytes"),
        (12.34567, "ms", "12.35 ms"),
        (1234.5, "mJ", "1234 mJ"),
    ],
)
def test_counts_have_units_and_measurements_stay_plain(value, unit, expected):
    assert quantity(value, unit) == expected


def test_top_5_is_given_only_with_more_than_5_classes():
    assert accuracy_text(71.0, 90.0, 1.5, 1000) == "top-1 71.00 %, top-5 90.00 %, loss 1.5000"
    assert accuracy_text(71.0, 100.0, 1.5, 5) == "top-1 71.00 %, loss 1.5000"


@pytest.mark.parametrize(
    ("ms", "expected"),
    [(0, "0 ms"), (0.0012, "1.2 us"), (34.5, "34.5 ms"), (2100, "2.1 s"), (7.2e6, "2 h"), (float("inf"), "inf ms")],
)
def test_durations_have_the_unit_that_fits(ms, expected):
    assert duration(ms) == expected


@pytest.mark.parametrize(
    ("gmacs", "expected"),
    [(8.5e-7, "850 MAC/s"), (0.012, "12 MMAC/s"), (3.2, "3.2 GMAC/s"), (3200, "3.2 TMAC/s"), (0, "0 GMAC/s")],
)
def test_speeds_have_the_unit_that_fits(gmacs, expected):
    assert rate(gmacs) == expected
