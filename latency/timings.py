"""Reads files of whole-network timings that somebody else made, or makes one with a function of the caller's."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import UserError, explain
from engine.files import parsed_json, read_text, write_atomically
from engine.progress import Report, silent
from engine.wording import shown
from latency.plan import Paths, covering_networks, spread_networks
from supernet.architecture import Architecture
from supernet.cost import macs_cost
from supernet.space import Space

MOST_CHARACTERS = 1_000_000
"""The most characters of one cell; the candidates of a thousand edges have less than 100,000."""
MOST_MS = 1e9
"""The longest accepted timing of a network."""
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.ASCII | re.IGNORECASE)


class TimingsError(UserError):
    """Raised if timings cannot be read, or do not belong to the space."""


def read_timings(path: Path, space: Space, allow_modules: Collection[str] = ()) -> list[tuple[Paths, float]]:
    """Returns the timings of a file, (paths, ms) each.

    The file is CSV with the header `architecture,ms`, or JSON, a list of {"architecture": ..., "ms": ...}. An
    architecture is the file name of an architecture.json (relative to `path`), or the candidates of all edges, in
    CSV separated by spaces. allow_modules: as for `Architecture.from_json`. Raises TimingsError naming the line or
    entry.
    """
    text = read_text(path, "a .csv or .json file", TimingsError)
    if path.suffix.lower() == ".json":
        rows = _json_rows(path, text)
    elif path.suffix.lower() == ".csv":
        rows = _csv_rows(path, text)
    else:
        raise TimingsError(str(path), f"got a file '{path.suffix}'", ".csv or .json")
    return [(_paths(where, architecture, path.parent, space, allow_modules), ms) for where, architecture, ms in rows]


def time_networks(
    time: Callable[[Architecture], float],
    space: Space,
    path: Path,
    *,
    networks: int = 60,
    seed: int = 0,
    report: Report = silent,
) -> None:
    """Times networks of the space with a function, and writes `path`, a CSV as `read_timings` reads it.

    time: returns the milliseconds of a network, by whatever means: on a board by ssh, on a simulator. The networks hold
    every candidate of every edge and are spread over the reachable range, in a random order. The file is written after
    each, and networks that it holds already are not timed again: after an interruption the same call goes on. seed: the
    seed by which the networks and their order are drawn. Raises TimingsError if the function returns no time, or `path`
    holds something else than timings of this space.
    """
    if path.suffix.lower() != ".csv":
        raise TimingsError(str(path), f"got a file '{path.suffix}'", ".csv")
    rng = np.random.default_rng(seed)
    covering = covering_networks(space, rng)
    spread = spread_networks(macs_cost(space), max(0, networks - len(covering)), rng, avoid=covering)
    done = read_timings(path, space) if path.exists() else []
    known = {paths for paths, _ in done}
    left = [paths for paths in dict.fromkeys([*covering, *spread]) if paths not in known]
    rng.shuffle(left)
    for count, paths in enumerate(left):
        report("timing networks", count, len(left))
        architecture = Architecture(space, tuple(map(int, paths)))
        value = time(architecture)
        number = value.item() if isinstance(value, np.generic) else value
        ms = _ms(f"the time of '{' '.join(architecture.names)}'", value, number)
        done.append((architecture.paths, ms))
        rows = [f"{' '.join(Architecture(space, own).names)},{own_ms!r}" for own, own_ms in done]
        write_atomically(path, "\n".join(["architecture,ms", *rows]) + "\n")


def _csv_rows(path: Path, text: str) -> list[tuple[str, Any, float]]:
    """Returns (its place for errors, architecture, ms) of each row of a CSV file."""
    lines = _csv_lines(path, text)
    header = [name.strip().lower() for name in next(lines, (0, []))[1]]
    if not {"architecture", "ms"} <= set(header):
        remedy = "separate columns by commas" if any(";" in name for name in header) else ""
        raise TimingsError(
            str(path),
            f"line 1 is {shown(','.join(header) or 'nothing')}",
            "a header with the columns architecture and ms",
            remedy,
        )
    for name in filter(None, header):
        if header.count(name) > 1:
            raise TimingsError(str(path), f"line 1 names the column {shown(name)} twice", remedy="keep the right one")
    rows = []
    for number, row in lines:
        where = f"{path}:{number}"
        if not row:
            continue
        if len(row) > len(header):  # e.g. a decimal comma, which would pass for a shorter time
            raise TimingsError(where, "has more values than the header has columns", remedy="write 1.5, not 1,5")
        if len(row) < len(header):
            raise TimingsError(where, f"has {len(row)} values", f"{len(header)} as in the header")
        values = dict(zip(header, row, strict=True))
        cell = values["ms"].strip()  # Python alone would accept 1_000 and digits of other scripts
        ms = _ms(where, cell, float(cell) if _NUMBER.fullmatch(cell) else None)
        rows.append((where, values["architecture"], ms))
    return rows


def _csv_lines(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    """Returns an iterator over (the number of the row's last line, its cells)."""
    before = csv.field_size_limit(MOST_CHARACTERS)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        rows = [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise TimingsError(
            f"{path}:{reader.line_num}", f"not CSV: {error}", remedy="check the quotes of this row"
        ) from None
    finally:
        csv.field_size_limit(before)
    return iter(rows)


def _json_rows(path: Path, text: str) -> list[tuple[str, Any, float]]:
    """Returns (its place for errors, architecture, ms) of each entry of a JSON file."""
    data = parsed_json(text, str(path), TimingsError, "check that it is complete")
    if not isinstance(data, list):
        raise TimingsError(str(path), f"got {type(data).__name__}", 'a list of {"architecture": ..., "ms": ...}')
    rows = []
    for i, row in enumerate(data):
        if not isinstance(row, dict) or row.keys() != {"architecture", "ms"}:
            raise TimingsError(f"{path}: entry {i}", f"got {shown(row, 80)}", "the keys architecture and ms")
        where = f"{path}: entry {i}"
        rows.append((where, row["architecture"], _ms(where, row["ms"], row["ms"])))
    return rows


def _paths(where: str, architecture: Any, folder: Path, space: Space, allow_modules: Collection[str]) -> Paths:
    """Returns the paths of an architecture as a file of timings has it: a file name, or names of candidates."""
    if isinstance(architecture, str) and architecture.strip().endswith(".json"):
        named = Path(architecture.strip())
        if named.is_absolute() or ".." in named.parts:
            raise TimingsError(where, f"'{named}' leads out of the folder of this file", "a file below it")
        file = folder / architecture.strip()
        try:
            text = read_text(file, "an architecture.json")
        except UserError as error:
            raise TimingsError.of(error, where) from None
        with explain(f"{where}: {file}"):
            read = Architecture.from_json(text, allow_modules=allow_modules)
        ignored = {"dropout": 0.0, "candidate_modules": ()}  # neither changes the time
        if read.space.config.model_copy(update=ignored) != space.config.model_copy(update=ignored):
            raise TimingsError(
                where, f"{file} is of another space than the config's", remedy="give the config that it came from"
            )
        return read.paths
    names = architecture.split() if isinstance(architecture, str) else architecture
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise TimingsError(where, f"architecture is '{shown(architecture, 80)}'", "candidate names or a .json file")
    try:
        return Architecture.from_names(space, names).paths
    except ValueError as error:
        raise TimingsError.of(error, where) from None


def _ms(where: str, written: Any, number: Any) -> float:
    """Returns `number` if it can be milliseconds, and raises otherwise; written: the text in the file."""
    if not isinstance(number, int | float) or isinstance(number, bool) or not 0 < number <= MOST_MS:
        text = shown(written) if isinstance(written, str | list | dict) else repr(written)
        raise TimingsError(where, f"ms is {text}", f"milliseconds above 0, at most {MOST_MS:g}")
    return float(number)
