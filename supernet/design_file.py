"""Reads architecture.json of either format: a choice in a space, or a chain of explicit layers."""

from __future__ import annotations

from collections.abc import Collection

from supernet.architecture import Architecture
from supernet.chain import FORMAT, Chain
from supernet.design import Design
from supernet.json_text import parsed


def read_design(text: str, *, allow_modules: Collection[str] = ()) -> Design:
    """Returns the design that the text of an architecture.json describes.

    allow_modules: as for `Architecture.from_json`. Raises InvalidError, which names the wrong key.
    """
    record = parsed(text)
    if isinstance(record, dict) and record.get("format") == FORMAT:
        return Chain.from_json(text)
    return Architecture.from_json(text, allow_modules=allow_modules)
