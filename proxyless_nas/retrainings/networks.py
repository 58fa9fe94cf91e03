"""Finds the networks to retrain: those that are given, and random ones that are predicted to cost the same."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engine.config import load_config
from engine.errors import ConfigError
from engine.files import as_path, as_texts, make_folder, read_json, write_atomically
from engine.wording import shown
from proxyless_nas.starting import architecture_or_file
from proxyless_nas.views import retrained_design
from published.networks import ALIASES, is_named
from retrain.weights import load_architecture
from search.baseline import random_architectures
from search.derive.derivation import InfeasibleError
from search.limits.limit import AdditiveLimit
from search.opening import resolved_run
from supernet.architecture import Architecture
from supernet.design import Design
from supernet.space import Space

log = logging.getLogger("retrain")

FOLDER = "networks"
"""The folder of a sweep with the architecture.json of each network that is no file of its own."""
TOLERANCE = 0.02
"""A random network costs at most as much as the first network, and at least (1 - TOLERANCE) of that."""
DRAW_SEED = 0
"""The seed by which random networks are drawn: a resume, or a call for more of them, draws the same first ones."""
_NAME = re.compile(r"\w[\w.-]{0,99}")
_OF_START = "start"


@dataclass(frozen=True)
class Entry:
    """A network to retrain."""

    name: str
    design: Design | None
    """None: it is the network that `retrain.start` names, and is known once a retraining of it has begun."""
    source: str | None
    """What `proxyless-nas retrain --architecture` is given: a file or a published name. None: `saved` writes a file."""
    cost: float | None = None
    """Its predicted cost in the unit of `Entries`; None if it is not known."""
    random: bool = False
    """Whether it was drawn at random."""
    predicted: tuple[Mapping[str, Any], ...] = ()
    """What its file is to say of its predicted costs."""


@dataclass(frozen=True)
class Entries:
    """The networks to retrain, the given ones first."""

    all: tuple[Entry, ...]
    metric: str = ""
    """What the costs are, such as latency; empty if there are none."""
    unit: str = ""

    @property
    def first(self) -> Entry:
        """The network that the others are compared with."""
        return self.all[0]


def entries_of(
    architectures: Sequence[Any] | Mapping[str, Any], random: int = 0, allow_modules: Collection[str] = ()
) -> Entries:
    """Returns the networks that are given, and `random` random ones that cost what the first one is predicted to cost.

    architectures: designs, published names, files, and folders of searches and retrainings; a mapping has their names.
    None as the only entry is the network that `retrain.start` names. Random networks come from the space of the search
    that derived the first one, meet its limits, and cost the same in the first of them, up to TOLERANCE. Raises
    ConfigError, and what the files' readers raise.
    """
    allow_modules = as_texts(allow_modules, "allow_modules")
    pairs: list[tuple[str | None, Any]]
    pairs = [*architectures.items()] if isinstance(architectures, Mapping) else [(None, a) for a in architectures]
    if not pairs:
        raise ConfigError("architectures", "got none", "at least one")
    given: dict[str, Any] = {}
    for label, architecture in pairs:
        name = _name_of(architecture) if label is None else label
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            expected = "letters, digits and . _ -, since it names a folder"
            raise ConfigError("architectures", f"got the name {shown(name)}", expected, "give it another one")
        if name in given or (random and re.fullmatch(r"random\d+", name)):
            found = f"two networks would have the name {name} and share folders"
            remedy = "copy one architecture.json to a file of another name, or rename a folder"
            raise ConfigError("architectures", found, remedy=remedy)
        given[name] = architecture
    entries = [_entry(name, architecture, allow_modules) for name, architecture in given.items()]
    if random:
        return _with_random(entries, next(iter(given.values())), random, allow_modules)
    return _with_recorded_costs(entries)


def _name_of(architecture: Any) -> str:
    """Returns a network's name in the sweep: that of the published network, of its file or of its run's folder, with _
    for what cannot stand in the name of a network."""
    if architecture is None:
        return _OF_START
    if isinstance(architecture, Design):
        return architecture.name
    path = as_path(architecture, "architectures")
    if not path.exists() and is_named(str(path)):
        return ALIASES.get(str(path), str(path))
    whole = path.resolve()
    name = whole.parent.name if whole.name == "architecture.json" else whole.name if path.is_dir() else whole.stem
    return re.sub(r"[^\w.-]+|^[.-]+", "_", name)


def _entry(name: str, architecture: Any, allow_modules: Collection[str]) -> Entry:
    if architecture is None or isinstance(architecture, Design):
        return Entry(name, architecture, None)
    path = as_path(architecture, "architectures")
    if path.is_dir():
        if (path / "architecture.json").exists():
            path /= "architecture.json"
        elif (path / "config.yaml").exists():
            design = retrained_design(load_config(path / "config.yaml"), str(path / "config.yaml"), allow_modules)
            return Entry(name, design, None)
        else:
            raise ConfigError(str(path), "has no architecture.json", "the folder of a search that has ended")
    found = architecture_or_file(path, allow_modules)
    assert found is not None
    source = str(path.resolve()) if path.exists() else str(path)
    return Entry(name, found if isinstance(found, Design) else load_architecture(found, allow_modules), source)


def saved(entries: Entries, out: Path) -> Entries:
    """Writes the architecture.json of each network that has no file yet into the sweep's folder `out`."""
    kept = []
    for entry in entries.all:
        if entry.source is None and entry.design is not None:
            path = out / FOLDER / f"{entry.name}.json"
            make_folder(path.parent)
            write_atomically(path, entry.design.to_json(entry.predicted))
            entry = replace(entry, source=str(path.resolve()))
        kept.append(entry)
    return replace(entries, all=tuple(kept))


def _with_random(entries: Sequence[Entry], given: Any, count: int, allow_modules: Collection[str]) -> Entries:
    """Returns the entries with `count` random networks, all that are of the space with their predicted costs. given:
    the first one as it was given."""
    first = entries[0]
    path = None if given is None or isinstance(given, Design) else as_path(given, "architectures")
    run = None if path is None else path if path.is_dir() else path.parent
    if run is None or not isinstance(first.design, Architecture) or not (run / "config.yaml").exists():
        found = f"{first.name} is not in the folder of a search, whose limits say which networks cost the same"
        raise ConfigError("--random", found, "the folder of a search, or the architecture.json in it, as the first one")
    resolved = resolved_run(run, allow_modules)
    if not resolved.additive:
        found = f"the limit of {run} has been applied to its space, so that no cost is left to compare"
        raise ConfigError("--random", found, remedy="leave it out")
    limit = resolved.additive[0]
    paths, space = first.design.paths, resolved.space
    same = [
        replace(limit.of_cost(paths), kind="at"),
        *(other if other.allows(paths) else other.of_cost(paths) for other in resolved.additive[1:]),
    ]
    try:
        drawn = random_architectures(space, same, count + 1, seed=DRAW_SEED, tolerance=TOLERANCE, at_least=1)
    except InfeasibleError as error:
        raise ConfigError.of(error, "--random") from None
    others = [other for other in drawn if other != paths][:count]
    if 0 < len(others) < count:
        text = "--random: %d networks instead of %d: no more were found that cost what %s costs, to %g %%"
        log.warning(text, len(others), count, first.name, 100 * TOLERANCE)
    if not others:
        found = f"no other network of the space costs what {first.name} costs, to {100 * TOLERANCE:g} %"
        raise ConfigError("--random", found, remedy="leave it out")
    with_cost = [replace(entry, cost=_cost_of(entry.design, limit, space)) for entry in entries]
    for number, other in enumerate(others, 1):
        name = f"random{number}"
        records = tuple(each.record(other) for each in resolved.limits)
        design = Architecture(space, other, name)
        with_cost.append(Entry(name, design, None, limit.cost_of(other), random=True, predicted=records))
    return Entries(tuple(with_cost), limit.metric, limit.unit)


def _cost_of(design: Design | None, limit: AdditiveLimit, space: Space) -> float | None:
    """Returns the predicted cost of a network of the space; None for another one."""
    if isinstance(design, Architecture) and design.space.config == space.config:
        return limit.cost_of(design.paths)
    return None


def _with_recorded_costs(entries: Sequence[Entry]) -> Entries:
    """Returns the entries with the cost of the first limit in their files, of those that have the same table."""
    records = [_first_record(entry.source) for entry in entries]
    wanted = next((_kind_of(record) for record in records if record), None)
    if wanted is None:
        return Entries(tuple(entries))
    pairs = zip(entries, records, strict=True)
    found = (replace(e, cost=float(r["value"])) if r and _kind_of(r) == wanted else e for e, r in pairs)
    return Entries(tuple(found), wanted[0], wanted[1])


def _first_record(source: str | None) -> dict[str, Any] | None:
    """Returns the first record of what a search predicted in an architecture's file; None if there is none."""
    if source is None or Path(source).suffix != ".json":
        return None
    content = read_json(Path(source), "an architecture.json")
    records = content.get("predicted") if isinstance(content, dict) else None
    record = records[0] if isinstance(records, list) and records else None
    if not isinstance(record, dict) or not isinstance(record.get("value"), int | float):
        return None
    return record


def _kind_of(record: Mapping[str, Any]) -> tuple[str, str, object]:
    """Returns the metric, the unit and the tables of a record: costs of one kind can be compared."""
    tables = record.get("tables")
    hashes = tuple(t.get("table_sha256") for t in tables if isinstance(t, dict)) if isinstance(tables, list) else ()
    return str(record.get("metric")), str(record.get("unit")), record.get("table_sha256") or hashes
