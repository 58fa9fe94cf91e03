"""Runs several searches with one command, each (config, seed) in a process of its own, and writes a table and a picture
of all of them."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from engine.children import Child, Ending, at_once, earlier_seconds, run_children, slots_for
from engine.config import config_text, load_config
from engine.errors import ConfigError
from engine.files import remove_stale, write_atomically
from engine.quantities import quantity
from engine.queue import Kind
from engine.runs.folder import refuse_changes, run_begun
from engine.runs.lock import locked
from search.config import SearchConfig
from search.given import ConfigLike, as_content, given_search
from search.limits.resolve import resolve
from search.many.pareto import Panel, Point, draw_fronts
from search.result import ResultFile, load_result

log = logging.getLogger("search")

FORMAT = "proxylessnas/sweep@1"
Status = Literal["finished", "missed", "unsettled", "failed", "interrupted", "waiting"]
"""missed: the search has ended, but a limit is not met, by the measurement if the network was timed, else by the
prediction. unsettled: it has ended, but a timing was not reliable, so whether a limit is met is undecided. waiting: it
had not begun when the sweep was interrupted."""
ENDED = {"finished", "missed", "unsettled"}
"""The statuses of searches that have ended."""


@dataclass(frozen=True)
class SweptSearch(Child):
    """One search of a sweep."""

    name: str
    config: Path
    overrides: tuple[str, ...]
    out: Path
    kind: Kind = "cpu"

    def command(self) -> Sequence[str]:
        return "search.many.child", str(self.config)


@dataclass(frozen=True)
class Outcome:
    """The outcome of a search."""

    search: SweptSearch
    status: Status
    seconds: float = 0.0
    """The time of its processes, including those before a resume of the sweep."""
    error: str | None = None
    """The error of a failed search, in one line."""
    result: ResultFile | None = None


@dataclass(frozen=True)
class Sweep:
    """The result of a sweep."""

    outcomes: tuple[Outcome, ...]
    """The outcomes of the searches, in the order of the command line, the seeds of a config one after the other."""
    signalled: int | None = None
    """The signal that has interrupted the sweep."""

    @property
    def interrupted(self) -> bool:
        """Whether a signal has interrupted the sweep."""
        return self.signalled is not None

    @property
    def exit_status(self) -> int:
        """0 if every search has ended and meets its limits, 3 if one misses a limit, 1 if one has not ended,
        and 128 plus the signal's number if a signal has interrupted the sweep: 130 for Ctrl-C, 143 for SIGTERM."""
        statuses = {outcome.status for outcome in self.outcomes}
        if self.signalled is not None:
            return 128 + self.signalled
        return 1 if statuses - ENDED else 3 if statuses - {"finished"} else 0


def run_sweep(
    configs: Sequence[ConfigLike],
    out: Path | str,
    *,
    seeds: Sequence[int] = (),
    jobs: int = 1,
    resume: bool = False,
    overrides: Sequence[str] = (),
) -> Sweep:
    """Runs a search for every config and seed, and writes sweep.json, sweep.md and sweep.png into `out`.

    configs: paths of YAML files; the settings of search number i may also be a dictionary or a SearchConfig, from which
    `search<i>.yaml` in `out` is written. seeds: if there are none, each config is searched with its own run.seed.

    A search whose run.device is cuda takes one of the visible GPUs, one that runs on the CPU one of `jobs` places that
    share the cores. A search that fails does not stop the others. resume: skip the searches that have ended, continue
    those that have begun. If a signal interrupts the sweep, it stops the running searches and returns the outcomes.

    Raises ConfigError, before any search is started, if the settings are wrong, or if a search that has not ended needs
    a GPU and this machine has none.
    """
    out = Path(out)
    searches = plan_sweep(as_files(configs, out), out, seeds=seeds, overrides=overrides)
    with locked(out):  # the searches lock their own folders
        remove_stale(out)
        done = _done(searches, resume=resume)
        seconds = earlier_seconds(out / "sweep.json", "searches") if resume else {}
        found = {
            s.name: _ended_outcome(s, done[s.name], seconds.get(s.name, done[s.name].seconds))
            if s.name in done
            else Outcome(s, "waiting", seconds.get(s.name, 0.0))
            for s in searches
        }
        left = [search for search in searches if search.name not in done]
        slots = slots_for(left, jobs)
        _warn_of_disturbed_timings(searches, at_once(left, slots))

        def ended(search: SweptSearch, ending: Ending) -> None:
            found[search.name] = _outcome(search, ending)
            write_sweep(out, [*found.values()])

        signalled = run_children(
            left, slots, ended, lambda s: load_result(s.folder) is not None, seconds=seconds, done=len(done)
        )
        write_sweep(out, [*found.values()])
        return Sweep(tuple(found.values()), signalled)


def as_files(configs: Sequence[ConfigLike], out: Path) -> list[Path]:
    """Returns the path of each config's file. Settings that come from no file are written into `out`, with the tables
    that they hold as objects. Raises ConfigError if they are wrong."""
    paths = []
    for i, config in enumerate(configs):
        if isinstance(config, str | Path):
            paths.append(Path(config))
            continue
        given = given_search(config, folder=out)
        paths.append(out / f"search{i}.yaml")
        given.save_tables()
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(paths[-1], config_text(as_content(given.config)))
    return paths


def plan_sweep(
    configs: Sequence[Path], out: Path, *, seeds: Sequence[int] = (), overrides: Sequence[str] = ()
) -> list[SweptSearch]:
    """Returns the searches in their order. Raises ConfigError if two of them would share a folder, or a file is
    absent."""
    for seed in seeds:
        if seeds.count(seed) > 1:
            raise ConfigError("--seeds", f"{seed} is given twice", remedy="each seed makes one folder, remove one")
    stems: dict[str, Path] = {}
    for config in configs:
        if config.stem in stems:
            raise ConfigError(
                "configs",
                f"{stems[config.stem]} and {config} would share the folder {out / config.stem}",
                remedy="rename one",
            )
        stems[config.stem] = config
    if seeds and any(override.partition("=")[0].strip() == "run.seed" for override in overrides):
        raise ConfigError("--seeds", "the override run.seed sets a seed too", remedy="give one of the two")
    searches = []
    for config in configs:
        if not config.is_file():
            found = "is no file" if config.exists() else "no such file"
            raise ConfigError(str(config), found, remedy="expected a YAML file, see configs/search/")
        own = [(f"{config.stem}-seed{seed}", (*overrides, f"run.seed={seed}")) for seed in seeds]
        for name, changes in own or [(config.stem, tuple(overrides))]:
            searches.append(SweptSearch(name, config, changes, out, _kind(config, changes)))
    return searches


def _kind(config: Path, overrides: Sequence[str]) -> Kind:
    """Returns the kind of slot that the search needs. A config with a mistake counts as the CPU's: the search itself
    will name the mistake."""
    try:
        run = load_config(config, overrides).get("run")
    except ConfigError:
        return "cpu"
    return "cuda" if isinstance(run, dict) and run.get("device") == "cuda" else "cpu"


def _done(searches: Sequence[SweptSearch], *, resume: bool) -> dict[str, ResultFile]:
    """Returns the results of the searches that have ended. Raises ConfigError if they were other searches than
    these."""
    done = {}
    for search in searches:
        if run_begun(search.folder) and not resume:
            raise ConfigError(
                f"--out {search.out}",
                f"{search.name} holds a run already",
                remedy="continue the sweep with --resume, or choose another folder",
            )
        result = load_result(search.folder) if run_begun(search.folder) else None
        if result is not None:
            config = SearchConfig.read(search.config, search.overrides)
            refuse_changes(search.folder, resolve(config, search.config, search.overrides).record)
            done[search.name] = result
    return done


def _timed_on_cpu(config: Mapping[str, object]) -> bool:
    """Returns whether a limit's networks may be timed on this CPU. The config has not been checked yet."""
    limits = config.get("limits")
    for limit in limits if isinstance(limits, list) else []:
        if isinstance(limit, dict) and limit.get("metric") == "latency" and "tables" not in limit:
            own, common = limit.get("measure"), config.get("measure")
            measure = {**(common if isinstance(common, dict) else {}), **(own if isinstance(own, dict) else {})}
            if measure.get("device", "cpu") == "cpu":
                return True
    return False


def _warn_of_disturbed_timings(searches: Sequence[SweptSearch], together: int) -> None:
    for search in searches:
        try:
            config = load_config(search.config, search.overrides)
        except ConfigError:
            continue
        if together > 1 and _timed_on_cpu(config):
            log.warning(
                "%d searches at once share this CPU: where %s times its network here, the others disturb it; "
                "--jobs 1, or a table of another device, where measured latency counts", together, search.name,
            )  # fmt: skip
            return


def _ended_outcome(search: SweptSearch, result: ResultFile, seconds: float) -> Outcome:
    ended: dict[bool | None, Status] = {True: "finished", False: "missed", None: "unsettled"}
    return Outcome(search, ended[result.met], seconds, None, result)


def _outcome(search: SweptSearch, ending: Ending) -> Outcome:
    """Returns the outcome of a search whose process has ended."""
    if ending.status == "ended":
        result = load_result(search.folder)
        assert result is not None  # written before the process ends so
        return _ended_outcome(search, result, ending.seconds)
    return Outcome(search, ending.status, ending.seconds, ending.error)


def write_sweep(out: Path, outcomes: Sequence[Outcome]) -> None:
    """Writes sweep.json, sweep.md and, if a search has ended, sweep.png; each atomically."""
    rows = [
        {
            "name": o.search.name,
            "config": str(o.search.config),
            "overrides": list(o.search.overrides),
            "folder": str(o.search.folder),
            "log": str(o.search.log),
            "status": o.status,
            "seconds": o.seconds,
            "error": o.error,
            "result": o.result.model_dump(mode="json") if o.result else None,
        }
        for o in outcomes
    ]
    write_atomically(out / "sweep.json", json.dumps({"format": FORMAT, "searches": rows}, indent=2) + "\n")
    lines = [COLUMNS, ["---"] * len(COLUMNS), *map(row_of, outcomes)]
    text = "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
    write_atomically(out / "sweep.md", text + "\n")
    panels = panels_of(outcomes)
    if panels:
        draw_fronts(out / "sweep.png", panels)


COLUMNS = ["search", "status", "target", "expected", "predicted", "measured", "top-1 %", "seconds", "error"]


def row_of(outcome: Outcome) -> list[str]:
    """Returns the cells of COLUMNS; target, expected, predicted and measured are those of the first limit."""
    cells = [""] * 5
    if outcome.result:
        r, first = outcome.result, outcome.result.limits[0]
        cells = [
            first.asked,
            "" if first.expected is None else quantity(first.expected, first.unit),
            quantity(first.predicted, first.unit),
            "" if first.measured is None else f"{first.measured.median_ms:.4g} ± {first.measured.noise_ms:.2g} ms",
            f"{r.top1:.2f}",
        ]
    return [outcome.search.name, outcome.status, *cells, f"{outcome.seconds:.0f}", outcome.error or ""]


def panels_of(outcomes: Sequence[Outcome]) -> list[Panel]:
    """Returns the panels of the picture. Searches whose first limits have the same metric and tables are comparable and
    share a panel. Its costs are measured if all of its networks were timed, else predicted."""
    groups: dict[tuple[str, ...], list[tuple[Outcome, ResultFile]]] = {}
    for outcome in outcomes:
        if outcome.result:
            first = outcome.result.limits[0]
            files = (first.table,) if first.table else first.tables
            key = (first.metric, first.unit, first.combine or "", *files)
            groups.setdefault(key, []).append((outcome, outcome.result))
    panels = []
    for (metric, unit, combine, *tables), ended in groups.items():
        firsts = [result.limits[0] for _, result in ended]
        timings = [first.measured for first in firsts]
        measured = all(timings)
        costs = [t.median_ms if measured and t else f.predicted for t, f in zip(timings, firsts, strict=True)]
        points = tuple(
            Point(o.search.name, cost, r.top1, o.search.config.stem) for (o, r), cost in zip(ended, costs, strict=True)
        )
        label = f"{'measured' if measured else 'predicted'} {metric} [{unit}]"
        title = " ".join(filter(None, [combine, *(Path(table).stem for table in tables)]))
        panels.append(Panel(title or metric, label, points))
    return panels
