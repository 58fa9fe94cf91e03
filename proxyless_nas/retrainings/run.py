"""Retrains several networks with several seeds, each (network, seed) in a process of its own."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from engine.children import Child, Ending, earlier_seconds, run_children, slots_for
from engine.config import ConfigFile, config_text, keys_of, load_config, naming
from engine.errors import ConfigError
from engine.evaluation import Evaluation
from engine.files import as_list, as_path, as_texts, remove_stale, write_atomically
from engine.queue import Kind
from engine.runs.folder import refuse_changes, run_begun
from engine.runs.inputs import recorded
from engine.runs.lock import locked
from engine.shipped import located
from proxyless_nas.calls import as_seeds, refuse_outside
from proxyless_nas.retrainings.networks import Entries, Entry, entries_of, saved
from proxyless_nas.retrainings.results import RECORD, Outcome, RetrainSweep, write_results
from proxyless_nas.views import retrained_design
from retrain.config import RetrainConfig
from retrain.inputs import resolved_training
from retrain.result import load_test

log = logging.getLogger("retrain")

_SAME_IMAGES = ("training images", "test images", "validation images", "classes")


@dataclass(frozen=True)
class Retraining(Child):
    """One retraining of a sweep."""

    name: str
    out: Path
    kind: Kind
    overrides: tuple[str, ...]
    config: Path
    entry: Entry
    seed: int
    allow_modules: tuple[str, ...] = field(default=())

    def command(self) -> Sequence[str]:
        words = ["proxyless_nas.retrainings.child", str(self.config)]
        if self.entry.source is not None:
            words += ["--architecture", self.entry.source]
        if self.allow_modules:
            words += ["--allow-modules", *self.allow_modules]
        return words


def retrain_sweep(
    config: Path | str | Mapping[str, Any] | ConfigFile,
    architectures: Sequence[Any] | Mapping[str, Any],
    out: Path | str,
    *,
    random: int = 0,
    seeds: Sequence[int] = (),
    jobs: int = 1,
    resume: bool = False,
    overrides: Sequence[str] = (),
    allow_modules: Collection[str] = (),
) -> RetrainSweep:
    """Retrains several networks alike, with each seed, and says whether the first is better than the others.

    config: as for `retrain`. architectures: designs, published names, files, or folders of searches and retrainings; a
    mapping has their names; [None] is the network that `retrain.start` names. out: the folder for a folder and a log of
    each retraining, and for results.json, results.md and results.png. random: how many random networks are retrained
    too: of the space of the search that derived the first network, within its limits, and as costly in the first of
    them as that network, up to 2 %. seeds: of every network; without them, the configuration's own. jobs: retrainings
    at a time on the CPU; if run.device is cuda, on each visible GPU. One that fails does not stop the others. resume:
    skips those that have ended, and continues those that have begun; there may be more seeds and random networks than
    before. allow_modules: the modules that the networks' files may import.

    If a signal interrupts the sweep, it stops the retrainings and returns what there is. Raises a UserError, before
    anything is started, if settings are wrong, or if retrainings that have not ended need a GPU and this machine has
    none.
    """
    request = _request(config, architectures, as_path(out, "out"), random, seeds, jobs, overrides, allow_modules)
    with locked(request.out):  # the retrainings lock their own folders
        remove_stale(request.out)
        done = _done(request, resume=resume)  # first: nothing is written into the folder of another sweep
        request = _with_files(request)
        runs = _runs(request)
        left = [run for run in runs if run.name not in done]
        slots = slots_for(left, jobs, each_gpu=jobs)
        record = _Record(request, runs, done, earlier_seconds(request.out / RECORD, "runs") if resume else {})
        signalled = run_children(
            left, slots, record.add, lambda run: load_test(run.folder) is not None, seconds=record.seconds,
            done=len(done),
        )  # fmt: skip
        sweep = replace(record.sweep(), signalled=signalled)
        write_results(request.out, sweep)
        return sweep


@dataclass(frozen=True)
class _Request:
    """What the caller asks for, checked."""

    config: Any
    """The file of the settings; before `_with_files` also their content as a mapping or a model."""
    overrides: tuple[str, ...]
    settings: RetrainConfig
    entries: Entries
    seeds: tuple[int, ...]
    out: Path
    allow_modules: tuple[str, ...]

    @property
    def pairs(self) -> list[tuple[Entry, int]]:
        """Each network with each seed, in the order in which they are retrained."""
        return [(entry, seed) for seed in self.seeds for entry in self.entries.all]


def _request(
    config: Path | str | Mapping[str, Any] | ConfigFile,
    architectures: Sequence[Any] | Mapping[str, Any],
    out: Path,
    random: int,
    seeds: Sequence[int],
    jobs: int,
    overrides: Sequence[str],
    allow_modules: Collection[str],
) -> _Request:
    """Returns the arguments of `retrain_sweep`, read and checked. Raises UserError if they are wrong."""
    overrides, allow_modules = as_texts(overrides, "overrides"), as_texts(allow_modules, "allow_modules")
    source: Any = located(as_path(config, "config")) if isinstance(config, Path | str) else config
    settings = RetrainConfig.read(source, overrides)
    refuse_outside("random", random, 0)
    refuse_outside("jobs", jobs, 1)
    numbers = _seeds(as_seeds(seeds), overrides, settings)
    given = architectures if isinstance(architectures, Mapping) else as_list(architectures, "architectures")
    entries = entries_of(given, random, allow_modules)
    if any(entry.design is None for entry in entries.all) and (settings.retrain.start is None or len(entries.all) > 1):
        remedy = "say which networks to train (--architecture), or name one trained network in retrain.start"
        raise ConfigError("architecture", "is missing", remedy=remedy)
    return _Request(source, overrides, settings, entries, numbers, out, allow_modules)


def _seeds(seeds: Sequence[int], overrides: Sequence[str], settings: RetrainConfig) -> tuple[int, ...]:
    """Returns the seeds, or the config's own if there are none. Raises ConfigError if they are wrong."""
    for seed in seeds:
        if seeds.count(seed) > 1:
            raise ConfigError("seeds", f"{seed} is given twice", remedy="each seed makes one folder, remove one")
    if seeds and any(override.partition("=")[0].strip() == "run.seed" for override in overrides):
        raise ConfigError("seeds", "the override run.seed sets a seed too", remedy="give one of the two")
    return tuple(seeds) or (settings.run.seed,)


def _with_files(request: _Request) -> _Request:
    """Writes what the processes read and is no file yet, into the sweep's folder: settings and architectures."""
    entries = saved(request.entries, request.out)
    if isinstance(request.config, Path):
        return replace(request, entries=entries)
    file = request.out / "retrain.yaml"
    content = request.settings.model_dump(mode="json", exclude_none=True)
    content["data"]["workers"] = request.settings.data.workers  # which a dump leaves out
    write_atomically(file, config_text(content))
    return replace(request, config=file, overrides=(), entries=entries)


def _runs(request: _Request) -> list[Retraining]:
    """Returns the retrainings in their order."""
    kind: Kind = "cuda" if request.settings.run.device == "cuda" else "cpu"
    return [
        Retraining(
            _run_name(entry, seed), request.out, kind, (*request.overrides, f"run.seed={seed}"), request.config, entry,
            seed, _modules(entry, request.allow_modules),
        )
        for entry, seed in request.pairs
    ]  # fmt: skip


def _modules(entry: Entry, allow_modules: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the modules that the process of a retraining may import: the allowed ones, and those of an object's own
    candidates, which are imported in this process already."""
    own = () if entry.design is None else entry.design.candidate_modules
    return tuple(dict.fromkeys([*allow_modules, *own]))


def _run_name(entry: Entry, seed: int) -> str:
    """Returns the name of a retraining and of its folder in the sweep's."""
    return f"{entry.name}-seed{seed}"


def _done(request: _Request, *, resume: bool) -> dict[str, Evaluation]:
    """Returns the results of the retrainings that have ended, by their names. Raises ConfigError if they were others
    than those that are asked for, or had other images than each other."""
    done = {}
    for entry, seed in request.pairs:
        folder = request.out / _run_name(entry, seed)
        if run_begun(folder) and not resume:
            raise ConfigError(
                f"--out {request.out}",
                f"{folder.name} holds a run already",
                remedy="continue the sweep with --resume, or choose another folder",
            )
        test = load_test(folder) if run_begun(folder) else None
        if test is not None:
            with naming(request.config, keys_of(RetrainConfig)):
                settings = RetrainConfig.read(request.config, (*request.overrides, f"run.seed={seed}"))
            kept = _kept_design(folder, request.allow_modules)
            design = kept if entry.design is None else entry.design
            if settings.retrain.start is not None:  # the data decide on the number of classes
                design = design.with_classes(kept.classes)
            refuse_changes(folder, resolved_training(settings, design))
            done[folder.name] = test
    _refuse_different_images([request.out / name for name in done])
    return done


def _kept_design(folder: Path, allow_modules: Collection[str]) -> Any:
    """Returns the architecture of the retraining in a folder."""
    config = folder / "config.yaml"
    return retrained_design(load_config(config), str(config), allow_modules)


def _refuse_different_images(folders: Sequence[Path]) -> None:
    """Raises ConfigError if two retrainings had other images: their accuracies cannot be compared."""
    first: tuple[Path, dict[str, Any]] | None = None
    for folder in folders:
        inputs = recorded(folder) or {}
        images = {key: inputs[key] for key in _SAME_IMAGES if key in inputs}
        if first is None:
            first = folder, images
        elif images and first[1] and images != first[1]:
            other = next(key for key in _SAME_IMAGES if images.get(key) != first[1].get(key))
            found = f"has other {other} than {first[0]}, so their accuracies cannot be compared"
            raise ConfigError(str(folder), found, remedy="remove one of the folders, and resume the sweep")


class _Record:
    """The outcomes so far. The sweep's files are written anew after each retraining."""

    def __init__(
        self,
        request: _Request,
        runs: Sequence[Retraining],
        done: Mapping[str, Evaluation],
        seconds: Mapping[str, float],
    ):
        """Takes the results of the retrainings that have ended, and the seconds that earlier commands spent on each
        retraining, both by its name."""
        self.seconds = seconds
        self._request = request
        self._outcomes = {
            run.name: Outcome(
                run.entry.name, run.seed, run.folder, run.log, "ended" if run.name in done else "waiting",
                seconds.get(run.name, 0.0), None, done.get(run.name),
            )
            for run in runs
        }  # fmt: skip

    def add(self, run: Retraining, ending: Ending) -> None:
        """Adds the outcome of a retraining whose process has ended. It has failed, too, if its images were others than
        those of the retrainings before it."""
        before = [outcome.folder for outcome in self._outcomes.values() if outcome.test is not None]
        outcome = replace(self._outcomes[run.name], status=ending.status, seconds=ending.seconds, error=ending.error)
        if ending.status == "ended":
            outcome = replace(outcome, test=load_test(run.folder))
            try:
                _refuse_different_images([*before[:1], run.folder])
            except ConfigError as error:
                log.error("%s: %s", run.name, error)
                outcome = replace(outcome, status="failed", error=str(error), test=None)
        self._outcomes[run.name] = outcome
        write_results(self._request.out, self.sweep())

    def sweep(self) -> RetrainSweep:
        """Returns what there is so far, with the designs that are known only once a retraining has begun."""
        request, outcomes = self._request, tuple(self._outcomes.values())
        known = []
        for entry in request.entries.all:
            if entry.design is None:
                begun = [o.folder for o in outcomes if o.network == entry.name and o.test is not None]
                entry = replace(entry, design=_kept_design(begun[0], request.allow_modules)) if begun else entry
            known.append(entry)
        return RetrainSweep(replace(request.entries, all=tuple(known)), outcomes, request.seeds, request.config)
