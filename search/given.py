"""A search as its caller gives it: a YAML file, a dictionary or a SearchConfig; latency tables as files or objects.

A table that is handed over as an object is rounded as its file would be, and the run's folder gets a copy of it, which
the run's config.yaml names. The files of other tables are copied, too, and config.yaml goes on naming the originals.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.config import IN_PYTHON
from engine.errors import ConfigError
from engine.files import as_path, as_texts
from engine.runs.folder import TABLES
from engine.wording import shown
from latency.table import LatencyTable
from search.config import LimitConfig, SearchConfig

ConfigLike = Path | str | Mapping[str, Any] | SearchConfig
"""The settings of a search: the path of a YAML file, its content as a dictionary, or the model."""


@dataclass(frozen=True)
class GivenSearch:
    """The settings of a search, and the tables that were handed over as objects."""

    config: SearchConfig
    source: str
    """The beginning of errors: the file's path, or `the config` if it is none."""
    overrides: tuple[str, ...] = ()
    tables: Mapping[Path, LatencyTable] = field(default_factory=dict)
    """By the path that the limits name."""

    def save_tables(self) -> None:
        """Writes each table that was handed over as an object to the path that the limits name."""
        for path, table in self.tables.items():
            table.save(path)


def given_search(
    config: ConfigLike,
    overrides: Sequence[str] = (),
    tables: Mapping[Path | str, LatencyTable] | None = None,
    folder: Path | None = None,
) -> GivenSearch:
    """Reads and validates the settings of a search, after `overrides` (key.sub=value) have been applied.

    A dictionary may extend files (`extends:`) as a file does; in it, `table` and the entries of `tables` of a limit may
    be LatencyTable objects, and sections may be models. tables: objects in place of the files that limits name. folder:
    the run's folder, for copies of the objects; without it, nothing is to be copied. Raises ConfigError.
    """
    overrides = as_texts(overrides, "overrides")
    objects = _given_tables({} if tables is None else tables)
    content, own = _without_objects(config) if isinstance(config, Mapping) else (config, {})
    model = SearchConfig.read(content, overrides)
    source = str(as_path(config, IN_PYTHON)) if isinstance(config, str | Path) else IN_PYTHON
    objects |= own
    named = {path for limit in model.limits for path in limit.files}
    if strangers := [path for path in objects if path not in named]:
        accepted = ", ".join(map(str, sorted(named))) or "none"
        raise ConfigError("tables", f"got one for {strangers[0]}, which no limit names", f"one of {accepted}")
    if folder is not None:
        places = _copies(list(objects), folder)
        model = with_paths(model, places)
        objects = {places[path]: table for path, table in objects.items()}
    return GivenSearch(model, source, tuple(overrides), objects)


def as_content(config: SearchConfig) -> dict[str, Any]:
    """Returns the settings as a YAML file has them, data.workers included, which a run's record leaves out."""
    content = config.model_dump(mode="json")
    content["data"]["workers"] = config.data.workers
    return content


def _given_tables(tables: object) -> dict[Path, LatencyTable]:
    """Returns tables that were handed over as objects, by path. Raises ConfigError if they are something else."""
    expected = "a dictionary with a LatencyTable for each path that a limit names"
    if not isinstance(tables, Mapping):
        raise ConfigError("tables", f"got {shown(tables)}", expected)
    for path, table in tables.items():
        if not isinstance(table, LatencyTable):
            raise ConfigError("tables", f"got {shown(table)} for {shown(path)}", expected)
    return {as_path(path, "tables"): as_its_file(table) for path, table in tables.items()}


def as_its_file(table: LatencyTable) -> LatencyTable:
    """Returns the table as it would be read from its file, whose numbers are rounded."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.yaml"
        table.save(path)
        return LatencyTable.load(path)


def _without_objects(config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[Path, LatencyTable]]:
    """Returns the settings as a YAML file has them, and the tables of limits by the names that have replaced them."""
    tables: dict[Path, LatencyTable] = {}

    def name_of(table: object, name: str) -> object:
        if not isinstance(table, LatencyTable):
            return table
        tables[Path(name)] = as_its_file(table)
        return name

    content = dict(config)
    limits = content.get("limits")
    if isinstance(limits, list | tuple):
        content["limits"] = [dict(limit) if isinstance(limit, Mapping) else limit for limit in limits]
        for i, limit in enumerate(content["limits"]):
            if isinstance(limit, dict) and "table" in limit:
                limit["table"] = name_of(limit["table"], f"table-{i}.yaml")
            if isinstance(limit, dict) and isinstance(limit.get("tables"), list | tuple):
                limit["tables"] = [name_of(table, f"table-{i}-{k}.yaml") for k, table in enumerate(limit["tables"])]
    return content, tables


def _copies(paths: Sequence[Path], folder: Path) -> dict[Path, Path]:
    """Returns where in a run's folder the copy of each table belongs: a name of its own for each."""
    counts = Counter(path.name for path in paths)
    names = [path.name if counts[path.name] == 1 else f"{i}-{path.name}" for i, path in enumerate(paths)]
    return {path: (folder / TABLES / name).absolute() for path, name in zip(paths, names, strict=True)}


def with_paths(config: SearchConfig, places: Mapping[Path, Path]) -> SearchConfig:
    """Returns the settings with other paths of tables."""
    if not places:
        return config

    def changed(limit: LimitConfig) -> LimitConfig:
        table = None if limit.table is None else places.get(limit.table, limit.table)
        return limit.model_copy(
            update={"table": table, "tables": tuple(places.get(path, path) for path in limit.tables)}
        )

    return config.model_copy(update={"limits": tuple(map(changed, config.limits))})
