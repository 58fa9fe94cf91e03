"""Records which file a retraining took its architecture from: a search's architecture.json has what was predicted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from engine.config import Section, validate
from engine.files import read_json, write_atomically

FILE = "source.json"


class Source(Section):
    """The content of source.json in a retraining's folder."""

    format: Literal["proxylessnas/retraining-source@1"] = "proxylessnas/retraining-source@1"
    architecture: str
    """The whole path of the architecture.json, as it was then."""
    predicted: tuple[dict[str, Any], ...] = ()
    """Its record of each limit of the search: metric, value, unit, bound and table."""


def record_source(out: Path, architecture: Path, content: Mapping[str, Any]) -> None:
    """Writes source.json into a retraining's folder. content: of the architecture's file."""
    records = content.get("predicted")
    predicted = tuple(r for r in records if isinstance(r, dict)) if isinstance(records, list) else ()
    source = Source(architecture=str(architecture.resolve()), predicted=predicted)
    write_atomically(out / FILE, source.model_dump_json(indent=2) + "\n")


def source_of(out: Path) -> Source | None:
    """Returns what a retraining recorded; None if it was given no file, or an earlier version ran it. Raises
    ConfigError if the record is damaged."""
    path = out / FILE
    if not path.exists():
        return None
    remedy = "delete it: the retraining itself does not need it"
    return validate(Source, read_json(path, "the source of an architecture", remedy=remedy), str(path))
