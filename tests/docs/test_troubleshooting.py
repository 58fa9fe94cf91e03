"""docs/troubleshooting.md has every warning of the program."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.warnings_of_the_program import MAKERS, Text, all_warnings, makers

CHECKOUT = Path(__file__).resolve().parents[2]
PAGE = (CHECKOUT / "docs" / "troubleshooting.md").read_text()
QUOTED = [line for block in re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
INLINE = re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL))
LINES = [*QUOTED, *(" ".join(text.split()) for text in INLINE)]
WARNINGS = all_warnings(CHECKOUT)


@pytest.mark.parametrize("warning", WARNINGS, ids=[f"{w.where} {i}" for i, w in enumerate(WARNINGS)])
def test_a_warning_of_the_program_is_quoted_on_the_page(warning):
    assert any(warning.is_in(line) for line in LINES), f"the page lacks: {' ... '.join(warning.fragments)}"


def test_the_warnings_are_found_in_the_sources():
    """The search for them is not blind: it finds one of each kind."""
    assert makers(CHECKOUT) == set(MAKERS), "a function that made warnings has another name now: name it in MAKERS"
    texts = [" ".join(warning.fragments) for warning in WARNINGS]
    for known in (
        "starting from the beginning",  # log.warning
        "never verified on whole networks, so its error is unknown",  # a Note whose text is a variable
        "bf16 makes most CPUs slower",  # a Check
        "derived in the nearest below",  # a note of a derivation
        "the search may be collapsing onto skip",  # an alarm
        "searches refuse this table",  # a printed line
        "left out",  # a text in a call
    ):
        assert any(known in text for text in texts), known


def test_a_text_is_found_with_its_parts_in_order():
    text = Text("", ("took", "ms, where"))
    assert text.is_in("a took 3 ms, where b")
    assert not text.is_in("ms, where it took")
