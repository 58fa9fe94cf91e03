"""Opens the folder of a search again, which holds its settings and copies of its latency tables."""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Collection, Sequence
from pathlib import Path

from engine.config import load_config, validate
from engine.errors import ConfigError, UserError, explain
from engine.files import make_folder, write_atomically
from engine.runs.folder import TABLES
from latency.table import LatencyTable
from search.config import SearchConfig
from search.given import with_paths
from search.limits.limit import AdditiveLimit
from search.limits.resolve import Resolved, resolve
from search.own import with_permitted_modules

log = logging.getLogger("search")

A_SEARCH = "the folder of a search, as given to proxyless-nas search --out"


def resolved_run(run: Path, allow_modules: Collection[str] = ()) -> Resolved:
    """Returns the settings and limits of the search in a folder, which may have been moved.

    allow_modules: the user's modules that the settings name and that may be run. Raises ConfigError if the folder holds
    no search, and TableError if a table is not the one with which it was run.
    """
    config_file = run / "config.yaml"
    if not config_file.exists():
        raise ConfigError(str(run), "no config.yaml", remedy=f"expected {A_SEARCH}")
    stored = load_config(config_file)
    if "search" not in stored:
        found = f"has no section `search`, so {run} holds no search"
        raise ConfigError(str(config_file), found, remedy=f"expected {A_SEARCH}")
    with explain(str(config_file)):
        settings = with_permitted_modules(stored, allow_modules)
    config = validate(SearchConfig, settings, str(config_file), {"allow_modules": allow_modules})
    config, tables = _with_own_tables(config, run)
    return resolve(config, config_file, tables=tables)


def keep_tables(limits: Sequence[AdditiveLimit], run: Path) -> None:
    """Copies the files of the limits' tables into the run's folder, so that a run can be moved, and opened from any
    folder. A table that is in the run's folder already is left alone."""
    for source in (source for limit in limits for source in limit.sources):
        if source.path.exists() and run.absolute() not in source.path.absolute().parents:
            place = kept_place(run, source.path, source.sha256)
            make_folder(place.parent)
            write_atomically(place, source.path.read_bytes())


def _with_own_tables(config: SearchConfig, run: Path) -> tuple[SearchConfig, dict[Path, LatencyTable]]:
    """Returns a run's settings with its own copies of tables that are not where the settings say: the run may have been
    moved or copied, or is opened from another folder than the one from which it was started. Also returns the tables
    that were read to find that out, by their paths."""
    places: dict[Path, Path] = {}
    read: dict[Path, LatencyTable] = {}

    def is_table(path: Path, sha256: str | None) -> bool:
        """Returns whether a file is there, and is the latency table of this hash if that is known."""
        if not path.exists() or sha256 is None:
            return path.exists()
        with contextlib.suppress(UserError):
            if path not in read:
                read[path] = LatencyTable.load(path)
            return read[path].sha256 == sha256
        return False

    for limit in config.limits:
        hashes = limit.tables_sha256 if limit.tables else (limit.table_sha256,)
        for path, sha256 in itertools.zip_longest(limit.files, hashes[: len(limit.files)]):
            copies = ([kept_place(run, path, sha256)] if sha256 else []) + [run / TABLES / path.name]
            if not is_table(path, sha256) and (found := [copy for copy in copies if is_table(copy, sha256)]):
                places[path] = found[0]
                if path.exists():
                    log.warning("%s: not the table that this run began with; its own copy is used: %s", path, found[0])
    return with_paths(config, places), read


def kept_place(run: Path, path: Path, sha256: str) -> Path:
    """Returns the place in a run's folder of the copy of a table's file, whose content has this hash."""
    return run / TABLES / f"{path.stem}-{sha256[:8]}.yaml"
