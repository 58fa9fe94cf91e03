"""Reads what the folders of runs say: a search, a retraining, or a quick start, which has both. Nothing is computed."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from engine.config import Section, load_config, validate
from engine.errors import Action, ConfigError, explain
from engine.evaluation import Evaluation
from engine.files import read_json
from engine.runs.folder import TABLES
from engine.runs.inputs import Inputs, recorded
from engine.wording import shown
from latency.table import LatencyTable
from retrain.source import Source, source_of
from retrain.weights import layers_of, load_chosen
from search.opening import kept_place
from search.result import ResultFile, load_result
from supernet.architecture import Architecture
from supernet.design import Design
from supernet.design_file import read_design

A_RUN = "the folder of a search, of a retraining or of a quick start"
_SECTIONS = {"data", "retrain", "run", "search", "space"}
_CONFIG, _RESULT = "config.yaml", "result.json"


@dataclass(frozen=True)
class UsedTable:
    """A latency table of a search's limit."""

    path: str
    """As the search's config.yaml has it."""
    sha256: str | None
    """The hash of the numbers that the search used; None if it does not say."""
    table: LatencyTable | None
    """None if no file with this hash is found: it was moved, deleted or measured anew."""


@dataclass(frozen=True)
class Searched:
    """A search that has ended, or is still running."""

    folder: Path
    config: Mapping[str, Any]
    """The content of its config.yaml."""
    result: ResultFile | None
    """None while it has not ended."""
    architecture: Architecture | None
    """The derived network, None while it has not ended."""
    inputs: Inputs | None

    @property
    def tables(self) -> dict[str, UsedTable]:
        """The latency tables of its limits by their paths."""
        return {table.path: table for limit in self.config.get("limits", ()) for table in _tables(self.folder, limit)}


@dataclass(frozen=True)
class Retrained:
    """A retraining that has ended, or is still running."""

    folder: Path
    config: Mapping[str, Any]
    """The content of its config.yaml without the architecture."""
    design: Design
    test: Evaluation | None
    """Its result on the test set after the last epoch; None while it has not ended."""
    inputs: Inputs | None
    source: Source | None
    """The file that the architecture came from; None if it is not recorded."""
    epochs: Any = None
    """The number of epochs, as result.json has it."""
    chosen: Mapping[str, Any] | None = None
    """The epoch that images held out have chosen; None if the last one is the result."""

    @property
    def from_scratch(self) -> bool:
        """Whether the training began with fresh weights."""
        settings = self.config.get("retrain", {})
        return not settings.get("start") and not settings.get("inherit")

    @property
    def selection(self) -> str:
        """Which epoch the result is of, in words."""
        if self.chosen is None:
            return "after the last epoch; nothing was selected on them"
        return f"of epoch {self.chosen.get('epoch')}, which images held out of the training images have chosen"


@dataclass(frozen=True)
class Runs:
    """The runs that led to one network; at least one of them is there."""

    search: Searched | None
    retraining: Retrained | None
    quickstart: Path | None = None
    """The folder of the quick start that both belong to."""


class _TestFigures(Section):
    loss: float
    top1: float
    top5: float
    images: int


def open_runs(folders: Sequence[Path], allow_modules: Collection[str] = ()) -> Runs:
    """Returns the runs in one or two folders: of a search, of a retraining, of both in any order, or of a quick start.

    If a retraining is given alone, its search is the one that it took its architecture.json from, as long as that is
    there and still has this network. allow_modules: the user's modules that the architecture may import. Raises
    ConfigError if a folder holds no run, if two hold runs of one kind, or if the search found another network than the
    one that was retrained.
    """
    first, *rest = folders
    quickstart = first if not rest and (first / "search" / _CONFIG).is_file() else None
    if quickstart is not None:
        folders = [path for path in (first / "search", first / "retrain") if (path / _CONFIG).is_file()]
    search: Searched | None = None
    retraining: Retrained | None = None
    for folder in folders:
        config = _config_of(folder)
        if "search" in config:
            if search is not None:
                raise ConfigError(str(folder), f"holds a search, as {search.folder} does", "a search and a retraining")
            search = _searched(folder, config, allow_modules)
        else:
            if retraining is not None:
                found = f"holds a retraining, as {retraining.folder} does"
                raise ConfigError(str(folder), found, "a search and a retraining")
            retraining = _retrained(folder, config, allow_modules)
    if search is not None and retraining is not None:
        if search.architecture is not None and not _same(search.architecture, retraining.design):
            found = f"found another network than the one that {retraining.folder} retrained"
            raise ConfigError(str(search.folder), found, "the search of that network")
    elif retraining is not None:
        search = _origin(retraining, allow_modules)
    return Runs(search, retraining, quickstart)


def _config_of(folder: Path) -> dict[str, Any]:
    """Returns the content of a run's config.yaml. Raises ConfigError if the folder holds no run."""
    if not folder.is_dir():
        found = "is a file" if folder.exists() else "no such folder"
        raise ConfigError(str(folder), found, A_RUN)
    path = folder / _CONFIG
    if not path.exists():
        raise ConfigError(str(folder), f"has no {_CONFIG}", A_RUN)
    config = load_config(path)
    if "search" not in config and "architecture" not in config:
        raise ConfigError(str(path), "is of neither a search nor a retraining", A_RUN)
    for key in _SECTIONS & config.keys():
        if not isinstance(config[key], dict):
            raise ConfigError(f"{path}: {key}", f"got {shown(config[key])}", "a section, as the run has written it")
    limits = config.get("limits", [])
    if not isinstance(limits, list) or not all(isinstance(limit, dict) for limit in limits):
        raise ConfigError(f"{path}: limits", f"got {shown(limits)}", "a list, as the run has written it")
    return config


def _searched(folder: Path, config: dict[str, Any], allow_modules: Collection[str]) -> Searched:
    result, derived = load_result(folder), folder / "architecture.json"
    architecture = load_chosen(derived, allow_modules) if derived.exists() else None
    return Searched(folder, config, result, architecture, recorded(folder))


def _retrained(folder: Path, config: dict[str, Any], allow_modules: Collection[str]) -> Retrained:
    with explain(f"{folder / _CONFIG}: architecture"):
        design = read_design(json.dumps(config.pop("architecture")), allow_modules=allow_modules)
    test, record = None, {}
    if (path := folder / _RESULT).exists():
        remedy = "delete it and resume the retraining, which writes it again"
        expected = "the result of a retraining"
        record = read_json(path, expected, remedy=remedy)
        figures = record.get("test") if isinstance(record, dict) else None
        if not isinstance(figures, dict):
            raise ConfigError(str(path), "has no figures of the test", expected, remedy)
        test = Evaluation(**validate(_TestFigures, figures, f"{path}: test").model_dump())
    chosen = record.get("chosen") if isinstance(record.get("chosen"), dict) else None
    return Retrained(folder, config, design, test, recorded(folder), source_of(folder), record.get("epochs"), chosen)


def _same(one: Design, other: Design) -> bool:
    return layers_of(one) == layers_of(other)


def _origin(retraining: Retrained, allow_modules: Collection[str]) -> Searched | None:
    """Returns the search that a retraining took its architecture from, if it is there and has that network."""
    if retraining.source is None:
        return None
    folder = Path(retraining.source.architecture).parent
    try:
        config = _config_of(folder)
        search = _searched(folder, config, allow_modules) if "search" in config else None
    except ConfigError:  # another run is in its place by now; the retraining is whole without it
        return None
    if search is None or search.architecture is None or not _same(search.architecture, retraining.design):
        return None
    return search


def _tables(folder: Path, limit: Mapping[str, Any]) -> list[UsedTable]:
    """Returns the tables of one entry of `limits` in a search's config.yaml."""
    if limit.get("table"):
        return [_table(folder, str(limit["table"]), limit.get("table_sha256"))]
    paths, hashes = (value if isinstance(value := limit.get(k), list) else [] for k in ("tables", "tables_sha256"))
    pairs = zip_longest(paths, hashes[: len(paths)])
    return [_table(folder, str(path), sha256) for path, sha256 in pairs]


def _table(folder: Path, path: str, sha256: str | None) -> UsedTable:
    """Returns a table: the run's own copy, or the file at its recorded path or where a moved folder has it."""
    sha256, name = None if sha256 is None else str(sha256), Path(path).name
    copies = [kept_place(folder, Path(path), sha256)] if sha256 else []
    for place in (*copies, Path(path), folder / TABLES / name, folder.parent / name):
        if not place.is_file():
            continue
        try:
            table = LatencyTable.load(place)
        except ConfigError:
            continue
        if sha256 is None or table.sha256 == sha256:
            return UsedTable(path, sha256, table)
    return UsedTable(path, sha256, None)


def whole(runs: Runs) -> tuple[Retrained, Evaluation]:
    """Returns the retraining and its result. Raises ConfigError if there is none, or if it has not ended."""
    if runs.retraining is None:
        assert runs.search is not None
        raise ConfigError(
            str(runs.search.folder), "is of a search, whose supernet has no trained network", "a retraining",
            "retrain its architecture.json, and give that folder",
        )  # fmt: skip
    folder = runs.retraining.folder
    if runs.retraining.test is None:
        raise ConfigError(
            str(folder), f"has no {_RESULT}, so it has not ended", "a retraining that has ended",
            "continue it with --resume", action=Action("retrain", ("CONFIG", "ARCHITECTURE", "--out", str(folder))),
        )  # fmt: skip
    return runs.retraining, runs.retraining.test
