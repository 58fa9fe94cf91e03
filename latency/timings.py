"""Files of whole-network timings that somebody else made."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

from engine.errors import UserError, explain
from latency.plan import Paths
from supernet.architecture import Architecture
from supernet.space import Space


class TimingsError(UserError):
    """Timings that cannot be read, or do not belong to the space."""


def read_timings(path: Path, space: Space, allow_modules: Collection[str] = ()) -> list[tuple[Paths, float]]:
    """CSV with the header `architecture,ms`, or JSON: a list of {"architecture": ..., "ms": ...}.

    An architecture is the file name of an architecture.json (relative to `path`), or the candidates of all edges, in
    CSV separated by spaces. allow_modules: as for `Architecture.from_json`. Raises TimingsError naming the line or
    entry.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")  # spreadsheets put a mark before the header
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise TimingsError(f"{path}: cannot be read ({reason}); expected a .csv or .json file") from None
    if path.suffix.lower() == ".json":
        rows = _json_rows(path, text)
    elif path.suffix.lower() == ".csv":
        rows = _csv_rows(path, text)
    else:
        raise TimingsError(f"{path}: got a file '{path.suffix}', expected .csv or .json")
    return [
        (_paths(where, architecture, path.parent, space, allow_modules), _ms(where, ms))
        for where, architecture, ms in rows
    ]


def _csv_rows(path: Path, text: str) -> list[tuple[str, Any, Any]]:
    reader = csv.reader(io.StringIO(text))
    header = [name.strip().lower() for name in next(reader, [])]
    if not {"architecture", "ms"} <= set(header):
        hint = "; separate columns by commas" if any(";" in name for name in header) else ""
        raise TimingsError(
            f"{path}: line 1 is '{','.join(header) or 'nothing'}', expected a header with the columns architecture and "
            f"ms{hint}"
        )
    rows = []
    for row in reader:
        where = f"{path}:{reader.line_num}"
        if not row:
            continue
        if len(row) > len(header):  # e.g. a decimal comma, which would pass for a shorter time
            raise TimingsError(f"{where}: has more values than the header has columns; write 1.5, not 1,5")
        if len(row) < len(header):
            raise TimingsError(f"{where}: has {len(row)} values, expected {len(header)} as in the header")
        values = dict(zip(header, row, strict=True))
        rows.append((where, values["architecture"], values["ms"]))
    return rows


def _json_rows(path: Path, text: str) -> list[tuple[str, Any, Any]]:
    try:
        data = json.loads(text)
    except ValueError as error:
        raise TimingsError(f"{path}: not JSON: {error}; perhaps cut off") from None
    if not isinstance(data, list):
        raise TimingsError(f'{path}: expected a list of {{"architecture": ..., "ms": ...}}, got {type(data).__name__}')
    rows = []
    for i, row in enumerate(data):
        if not isinstance(row, dict) or row.keys() != {"architecture", "ms"}:
            raise TimingsError(f"{path}: entry {i}: expected the keys architecture and ms, got {str(row)[:80]}")
        rows.append((f"{path}: entry {i}", row["architecture"], row["ms"]))
    return rows


def _paths(where: str, architecture: Any, folder: Path, space: Space, allow_modules: Collection[str]) -> Paths:
    if isinstance(architecture, str) and architecture.strip().endswith(".json"):
        named = Path(architecture.strip())
        if named.is_absolute() or ".." in named.parts:
            raise TimingsError(f"{where}: '{named}' leads out of the folder of this file; expected a file below it")
        file = folder / architecture.strip()
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not UTF-8 text"
            raise TimingsError(f"{where}: {file} cannot be read ({reason})") from None
        with explain(f"{where}: {file}"):
            found = Architecture.from_json(text, allow_modules=allow_modules)
        ignored = {"dropout": 0.0, "candidate_modules": ()}  # what costs nothing, and where modules were found
        if found.space.config.model_copy(update=ignored) != space.config.model_copy(update=ignored):
            raise TimingsError(
                f"{where}: {file} is of another space than the config's; give the config that it came from"
            )
        return found.paths
    names = architecture.split() if isinstance(architecture, str) else architecture
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise TimingsError(
            f"{where}: architecture is {str(architecture)[:80]!r}, expected candidate names or a .json file"
        )
    try:
        return Architecture.from_names(space, names).paths
    except ValueError as error:
        raise TimingsError(f"{where}: {error}") from None


def _ms(where: str, value: Any) -> float:
    try:
        ms = float(value) if not isinstance(value, bool) else math.nan
    except (TypeError, ValueError):
        ms = math.nan
    if not (math.isfinite(ms) and ms > 0):
        raise TimingsError(f"{where}: ms is {value!r}, expected milliseconds above 0")
    return ms
