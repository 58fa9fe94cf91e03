"""Collects the facts of a report from the folders of runs, as plain values: `page.py` shows them."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.errors import ConfigError
from engine.files import TEMPORARY, as_path, as_texts, opened, read_json, read_text
from engine.runs.checkpoints import Checkpoints
from latency.table import Entry, LatencyTable
from report.deployed import Deployed, deployed_of
from report.runs import A_RUN, Runs, Searched, UsedTable, open_runs
from search.many.family import FORMAT as FAMILY
from search.many.pareto import Point, on_front
from search.many.sweep import FORMAT as SWEEP
from supernet.activation import working_set
from supernet.alpha import Alpha
from supernet.design import Design

FLOAT_BYTES = 4
_PROBABILITY = "probability/"
"""The beginning of the tags `probability/<edge>/<candidate>` in a search's metrics.jsonl."""
OF_A_JOB = ("tables", "derive", "evaluate", "export", "int8")
"""The folders that a job of several stages has beside those of its search and its retraining."""
JOB = "ship.yaml"
"""The settings of such a job."""
REPORTS = ".html"
"""Files that end so are not listed among those of a run: a report may lie there."""


@dataclass(frozen=True)
class LayerFacts:
    """One layer of the network."""

    place: str
    op: str
    shape: str
    """Channels and size of its input and output."""
    params: int
    macs: int
    memory_bytes: int | None
    """The feature maps that it needs at once, for one image in float32; None if that cannot be computed."""
    ms: tuple[tuple[float | None, float | None], ...]
    """By each of the facts' tables that is found: the corrected entry, and the entry as it was measured inside other
    networks. None if the table has no entry."""
    skip: bool


@dataclass(frozen=True)
class Snapshot:
    """The path probabilities at a step: of each searchable edge, by the names of its candidates."""

    step: int
    probabilities: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Member:
    """A network of a family, or the result of a search of a sweep."""

    label: str
    cost: float
    top1: float
    on_front: bool


@dataclass(frozen=True)
class Front:
    """Networks whose costs can be compared."""

    title: str
    cost: str
    """What the cost is, with its unit."""
    accuracy: str
    """What the accuracy is."""
    members: tuple[Member, ...]
    refused: tuple[str, ...] = ()


@dataclass(frozen=True)
class Beside:
    """A network of a quick start: the derived one, or a random one of equal predicted latency."""

    name: str
    predicted_ms: float
    measured_ms: float
    noise_ms: float
    top1: float
    params: int
    macs: int


@dataclass(frozen=True)
class Attempt:
    """A derivation of a quick start, and the timing of its network."""

    asked_ms: float
    predicted_ms: float
    measured_ms: float
    noise_ms: float
    drift: float


@dataclass(frozen=True)
class HashedFile:
    """A file of a run."""

    path: str
    """From the folder that the report is of."""
    size: int
    sha256: str


@dataclass(frozen=True)
class Facts:
    """All that a report shows."""

    title: str
    runs: Runs
    design: Design | None
    layers: tuple[LayerFacts, ...]
    tables: tuple[UsedTable, ...]
    snapshots: tuple[Snapshot, ...]
    search_curves: Mapping[str, Sequence[tuple[float, float]]]
    retraining_curves: Mapping[str, Sequence[tuple[float, float]]]
    fronts: tuple[Front, ...]
    beside: tuple[Beside, ...]
    attempts: tuple[Attempt, ...]
    settings: Mapping[str, str]
    """The text of each config.yaml by its folder's name."""
    files: tuple[HashedFile, ...]
    sweep: tuple[Mapping[str, Any], ...] = ()
    """The rows of a sweep's sweep.json."""
    deployed: Deployed = field(default_factory=Deployed)
    """The exported files, their timings, and the stages of a job."""


def collect(
    folders: Sequence[Path | str],
    out: Path | None = None,
    allow_modules: Collection[str] = (),
    exported: Path | None = None,
) -> Facts:
    """Returns the facts of one or two runs, of a quick start or of a sweep.

    folders: see `report.runs.open_runs`; a sweep's is given alone. out: the report's own file, which is not listed
    among the files of a run. allow_modules: as for `Architecture.from_json`. exported: a folder of exported files; None
    takes that of a job. Raises ConfigError.
    """
    paths = [as_path(folder, "run") for folder in folders]
    allow_modules = as_texts(allow_modules, "allow_modules")
    if len(paths) == 1 and (paths[0] / "sweep.json").is_file() and not (paths[0] / "config.yaml").exists():
        return _of_sweep(paths[0], out)
    runs = open_runs(paths, allow_modules)
    search, retraining = runs.search, runs.retraining
    design: Design | None = retraining.design if retraining else search.architecture if search else None
    tables = tuple(search.tables.values()) if search else ()
    home = runs.quickstart
    record = _quickstart(home) if home else {}
    shown = [run for run in (search, retraining) if run is not None]
    root = home or shown[0].folder
    names = {run.folder: run.folder.name if home or len(shown) > 1 else "" for run in shown}
    files = [file for run in shown for file in _hashed(run.folder, names[run.folder], out)]
    if home:
        files += [_hash(home / name, name) for name in ("result.json", "table.yaml") if (home / name).is_file()]
    parts = [home / name for name in OF_A_JOB if (home / name).is_dir()] if home else []
    if exported is not None:
        parts = [part for part in parts if part.name not in ("export", "int8")] + [exported]
    files += [file for part in parts for file in _hashed(part, part.name, out)]
    return Facts(
        title=_title(runs, design, root),
        runs=runs,
        design=design,
        layers=_layers(design, [used.table for used in tables if used.table]) if design else (),
        tables=tables,
        snapshots=_snapshots(search) if search else (),
        search_curves=_curves(search.folder) if search else {},
        retraining_curves=_curves(retraining.folder) if retraining else {},
        fronts=tuple(_families(search.folder)) if search else (),
        beside=tuple(_beside(record)),
        attempts=tuple(_attempts(record)),
        settings={
            names[run.folder] or run.folder.name: read_text(run.folder / "config.yaml", "a config.yaml")
            for run in shown
        }
        | ({"job": read_text(home / JOB, "the settings of a job")} if home and (home / JOB).is_file() else {}),
        files=tuple(files),
        deployed=deployed_of(home, exported),
    )


def _title(runs: Runs, design: Design | None, root: Path) -> str:
    of_a_job = runs.quickstart is not None and (runs.quickstart / JOB).is_file()
    if (runs.quickstart is None or of_a_job) and design is not None and design.name != "unnamed":
        return design.name  # that of a job, too, whose folder may have been renamed since
    return root.resolve().name


def _layers(design: Design, tables: Sequence[LatencyTable]) -> tuple[LayerFacts, ...]:
    found = []
    for place, layer in design.places:
        c = layer.complexity
        ms = tuple((0.0, 0.0) if layer.is_skip else _ms_of(table.entry(layer, place)) for table in tables)
        try:
            memory = 0 if layer.is_skip else FLOAT_BYTES * working_set(layer, design.op_settings)
        except ValueError:  # an op of the user's own that does not run on the meta device
            memory = None
        op = f"{layer.spec}+residual" if layer.residual and not layer.is_skip else str(layer.spec)
        size, size_out = f"{layer.size}x{layer.size}", f"{layer.size_out}x{layer.size_out}"
        shape = f"{layer.c_in}x{size} → {layer.c_out}"
        shape += "" if place == "classifier" else f"x{size_out}"
        found.append(LayerFacts(place, op, shape, c.params, c.macs, memory, ms, layer.is_skip))
    return tuple(found)


def _ms_of(entry: Entry | None) -> tuple[float | None, float | None]:
    return (None, None) if entry is None else (entry.ms, entry.median_ms)


def _records(folder: Path) -> list[dict[str, Any]]:
    """Returns the good lines of a run's metrics.jsonl. A process that was killed may leave a part of one."""
    path = folder / "metrics.jsonl"
    if not path.is_file():
        return []
    found = []
    for line in read_text(path, "the curves of a run", most=1 << 30).splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            found.append(record)
    return found


def _curves(folder: Path) -> dict[str, list[tuple[float, float]]]:
    """Returns the points (step, value) of each curve of a run."""
    curves: dict[str, list[tuple[float, float]]] = {}
    for record in _records(folder):
        for tag, value in record.items():
            if (
                tag != "step"
                and not tag.startswith(_PROBABILITY)
                and isinstance(value, int | float)
                and not isinstance(value, bool)
            ):
                curves.setdefault(tag, []).append((record["step"], value))
    return curves


def _snapshots(search: Searched) -> tuple[Snapshot, ...]:
    """Returns the path probabilities over time, or, of a run of an earlier version, those of its newest checkpoint."""
    found: dict[int, Snapshot] = {}
    for record in _records(search.folder):
        probabilities: dict[str, dict[str, float]] = {}
        for tag, value in record.items():
            if tag.startswith(_PROBABILITY) and isinstance(value, int | float):
                edge, _, name = tag.removeprefix(_PROBABILITY).partition("/")
                probabilities.setdefault(edge, {})[name] = value
        if probabilities:
            found[record["step"]] = Snapshot(record["step"], probabilities)
    if found or search.architecture is None:
        return tuple(found[step] for step in sorted(found))
    newest = Checkpoints(search.folder / "checkpoints").newest()
    if newest is None:
        return ()
    step, content = newest
    space = search.architecture.space
    alpha = content.get("search", {}).get("alpha")
    if getattr(alpha, "shape", None) != space.mask.shape:
        return ()
    return (Snapshot(step, Alpha.of_space(space, alpha).named_probabilities()),)


def _families(folder: Path) -> list[Front]:
    """Returns the families that `proxyless-nas derive` has written into a search's folder."""
    found = []
    for path in sorted(folder.glob("pareto*.json")):
        record = read_json(path, "the record of a family")
        members = record.get("members") if isinstance(record, dict) and record.get("format") == FAMILY else None
        if not isinstance(members, list):
            continue
        shown, what = [], ""
        for member in members:
            try:
                first, top1 = member["predicted"][0], member["top1"]
                cost, what = float(first["value"]), f"predicted {first['metric']} [{first['unit']}]"
            except (KeyError, TypeError, IndexError, ValueError):
                continue
            if isinstance(top1, int | float) and math.isfinite(cost):
                shown.append(Member(str(member.get("asked")), cost, top1, bool(member.get("on_front"))))
        refused = record.get("refused")
        texts = tuple(map(str, refused)) if isinstance(refused, list) else ()
        if shown or texts:
            title = f"Networks derived at step {record.get('step')} ({path.name})"
            found.append(Front(title, what, "top-1 % with the supernet's weights", tuple(shown), texts))
    return found


def _quickstart(home: Path) -> dict[str, Any]:
    path = home / "result.json"
    record = read_json(path, "the result of a quick start") if path.is_file() else {}
    return record if isinstance(record, dict) else {}


def _beside(record: Mapping[str, Any]) -> list[Beside]:
    found = []
    for row in _list(record, "networks"):
        try:
            ms = _number(row["predicted_ms"]), _number(row["measured_ms"]), _number(row["noise_ms"])
            sizes = int(_number(row["params"])), int(_number(row["macs"]))
            found.append(Beside(str(row["name"]), *ms, _number(row["top1"]), *sizes))
        except (KeyError, TypeError, ValueError):
            continue
    return found


def _list(record: Mapping[str, Any], key: str) -> list[Any]:
    value = record.get(key)
    return value if isinstance(value, list) else []


def _number(value: Any) -> float:
    """Returns a finite number. Raises TypeError or ValueError for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError
    if not math.isfinite(value):
        raise ValueError
    return value


def _attempts(record: Mapping[str, Any]) -> list[Attempt]:
    """Returns the tries of a quick start's derivation, the first reading of each."""
    found = []
    for one in _list(record, "tries"):
        try:
            reading, timing = one["readings"][0], one["readings"][0]["timing"]
            ms = one["asked"][0], reading["predicted"], timing["median_ms"], timing["noise_ms"], reading["drift"]
            found.append(Attempt(*map(_number, ms)))
        except (KeyError, TypeError, ValueError, IndexError):
            continue
    return found


def _hashed(folder: Path, name: str, out: Path | None) -> list[HashedFile]:
    """Returns the files of a run, in the order of their names. name: of the run, before each."""
    own = None if out is None else out.resolve()
    paths = [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".") and path.suffix not in (REPORTS, TEMPORARY)
        and path.resolve() != own
    ]  # fmt: skip
    return [_hash(path, str(Path(name) / path.relative_to(folder))) for path in paths]


def _hash(path: Path, name: str) -> HashedFile:
    with opened(path, "a file of a run") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
    return HashedFile(name, path.stat().st_size, digest)


def _of_sweep(folder: Path, out: Path | None) -> Facts:
    """Returns the facts of a sweep: a row for each search, and a front of the comparable ones."""
    path = folder / "sweep.json"
    record = read_json(path, "the record of a sweep")
    rows = record.get("searches") if isinstance(record, dict) and record.get("format") == SWEEP else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ConfigError(str(path), "is no record of a sweep", A_RUN)
    groups: dict[tuple[Any, ...], list[Point]] = {}
    for row in rows:
        try:
            first, top1 = row["result"]["limits"][0], row["result"]["top1"]
            key = (first["metric"], first["unit"], first.get("table") or tuple(first.get("tables") or ()))
            groups.setdefault(key, []).append(Point(str(row["name"]), float(first["predicted"]), float(top1)))
        except (KeyError, TypeError, IndexError, ValueError):  # it has not ended
            continue
    fronts = []
    for (metric, unit, _), points in groups.items():
        members = tuple(
            Member(p.label, p.cost, p.top1, kept)
            for p, kept in zip(points, on_front(points), strict=True)
            if math.isfinite(p.cost)
        )
        accuracy = "top-1 % with the supernet's weights"
        fronts.append(Front("Networks of the sweep", f"predicted {metric} [{unit}]", accuracy, members))
    files = [_hash(folder / name, name) for name in ("sweep.json", "sweep.md") if (folder / name).is_file()]
    return Facts(
        folder.resolve().name, Runs(None, None), None, (), (), (), {}, {}, tuple(fronts), (), (), {}, tuple(files),
        tuple(rows),
    )  # fmt: skip
