"""Finds what a wrong name or path was probably meant to be, for the end of an error: "Did you mean 'two_path'?"."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

LEAST_LIKENESS = 0.7
"""How alike two names are at least if one is suggested for the other: twice the number of characters that they share in
order, over the number of characters of both (difflib's ratio). 'imagenet' is like 'imagenet_cpu' by 0.8, 'gpu' like
'cpu' by 0.67."""
OTHER_NAMES = {"gpu": "cuda", "tflite": "litert", "tensorflow": "saved_model", "pte": "executorch", "fp32": "float32"}
"""Names of other programs for what has another name here."""
LONGEST_NAME = 100
"""Nothing is suggested for a longer name: it is no mistyped one."""
_FEWEST_LETTERS = 3  # of a beginning that stands for a whole name
_MOST_NAMES = 10_000  # of one folder, that are compared


def nearest(text: str, accepted: Iterable[object]) -> str:
    """Returns the accepted name that is nearest to a text, or else the only one that begins with it; '' if there is
    none. A name that others use for the same thing counts as near."""
    if len(text) > LONGEST_NAME:
        return ""
    plain = {_plain(str(name)): str(name) for name in accepted}
    if (same := OTHER_NAMES.get(_plain(text), "")) in plain:
        return plain[same]
    near = difflib.get_close_matches(_plain(text), plain, n=1, cutoff=LEAST_LIKENESS)
    if near:
        return plain[near[0]]
    longer = [name for name in plain if len(text) >= _FEWEST_LETTERS and name.startswith(_plain(text))]
    return plain[longer[0]] if len(longer) == 1 else ""


def _plain(name: str) -> str:
    """Returns a name without what is often mistaken: capitals, and hyphens for underscores."""
    return name.lower().replace("-", "_")


def nearest_path(path: Path) -> str:
    """Returns the existing path whose names are nearest to those of `path`, which does not exist; '' if none is near.

    Every name that does not exist is compared with what lies in the folder at its place, without its ending. The ending
    has to be alike too (.yml and .yaml), if there is one.
    """
    near = Path(path.anchor)
    changed = False
    for part in path.parts[len(near.parts) :]:
        try:
            if (near / part).exists():
                near /= part
                continue
            with os.scandir(near) as entries:
                there = sorted(Path(entry.name) for entry in islice(entries, _MOST_NAMES))
        except (OSError, ValueError):  # a file, a forbidden folder, a NUL character
            return ""
        given = Path(part)
        there = [name for name in there if not given.suffix or nearest(given.suffix, [name.suffix])]
        there.sort(key=lambda name: name.suffix == given.suffix)  # the last one of equal stems counts
        names = {name.stem.lower(): name for name in there}  # endings make all names of a folder alike
        matches = difflib.get_close_matches(given.stem.lower(), names, n=1, cutoff=LEAST_LIKENESS)
        if not matches:
            return ""
        near, changed = near / names[matches[0]], True
    return str(near) if changed else ""
