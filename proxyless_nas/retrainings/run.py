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
from engine.wording import shown
from proxyless_nas.retrainings.networks import Entries, Entry, entries_of, saved
from proxyless_nas.retrainings.results import RECORD, Outcome, RetrainSweep, write_results
from proxyless_nas.views import retrained_design
from retrain.config import RetrainConfig
from retrain.loop import resolved_training
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
    out, overrides = as_path(out, "out"), as_texts(overrides, "overrides")
    allow_modules = as_texts(allow_modules, "allow_modules")
    source: Any = located(as_path(config, "config")) if isinstance(config, Path | str) else config
    settings = RetrainConfig.read(source, overrides)
    for name, value, least in (("random", random, 0), ("jobs", jobs, 1)):
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ConfigError(name, f"got {shown(value)}", f"a whole number from {least} on")
    numbers = _seeds(as_list(seeds, "seeds"), overrides, settings)
    given = architectures if isinstance(architectures, Mapping) else as_list(architectures, "architectures")
    entries = entries_of(given, random, allow_modules)
    if any(entry.design is None for entry in entries.all) and (settings.retrain.start is None or len(entries.all) > 1):
        remedy = "say which networks to train (--architecture), or name one trained network in retrain.start"
        raise ConfigError("architecture", "is missing", remedy=remedy)
    with locked(out):  # the retrainings lock their own folders
        remove_stale(out)
        folders = [(out / _run_name(entry, seed), entry, seed) for seed in numbers for entry in entries.all]
        # nothing is written into the folder of another sweep
        done = _done(folders, source, overrides, resume=resume, allow_modules=allow_modules)
        file = source
        if not isinstance(source, Path):
            file = out / "retrain.yaml"
            content = settings.model_dump(mode="json", exclude_none=True)
            content["data"]["workers"] = settings.data.workers  # which a dump leaves out
            write_atomically(file, config_text(content))
            overrides = ()
        kind: Kind = "cuda" if settings.run.device == "cuda" else "cpu"
        entries = saved(entries, out)
        runs = [
            Retraining(
                _run_name(entry, seed), out, kind, (*overrides, f"run.seed={seed}"), file, entry, seed,
                _modules(entry, allow_modules),
            )
            for seed in numbers
            for entry in entries.all
        ]  # fmt: skip
        left = [run for run in runs if run.name not in done]
        slots = slots_for(left, jobs, each_gpu=jobs)
        seconds = earlier_seconds(out / RECORD, "runs") if resume else {}
        found = {
            run.name: Outcome(
                run.entry.name, run.seed, run.folder, run.log, "ended" if run.name in done else "waiting",
                seconds.get(run.name, 0.0), None, done.get(run.name),
            )
            for run in runs
        }  # fmt: skip

        def ended(run: Retraining, ending: Ending) -> None:
            before = [outcome.folder for outcome in found.values() if outcome.test is not None]
            outcome = replace(found[run.name], status=ending.status, seconds=ending.seconds, error=ending.error)
            if ending.status == "ended":
                outcome = replace(outcome, test=load_test(run.folder))
                try:
                    _refuse_different_images([*before[:1], run.folder])
                except ConfigError as error:
                    log.error("%s: %s", run.name, error)
                    outcome = replace(outcome, status="failed", error=str(error), test=None)
            found[run.name] = outcome
            write_results(out, _sweep(entries, found, numbers, file, allow_modules))

        signalled = run_children(
            left, slots, ended, lambda run: load_test(run.folder) is not None, seconds=seconds, done=len(done)
        )
        sweep = replace(_sweep(entries, found, numbers, file, allow_modules), signalled=signalled)
        write_results(out, sweep)
        return sweep


def _seeds(seeds: Sequence[Any], overrides: Sequence[str], settings: RetrainConfig) -> tuple[int, ...]:
    """Returns the seeds, or the config's own if there are none. Raises ConfigError if they are wrong."""
    for seed in seeds:
        if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 1 << 63:
            raise ConfigError("seeds", f"got {shown(seed)}", "whole numbers from 0 on")
        if seeds.count(seed) > 1:
            raise ConfigError("seeds", f"{seed} is given twice", remedy="each seed makes one folder, remove one")
    if seeds and any(override.partition("=")[0].strip() == "run.seed" for override in overrides):
        raise ConfigError("seeds", "the override run.seed sets a seed too", remedy="give one of the two")
    return tuple(seeds) or (settings.run.seed,)


def _modules(entry: Entry, allow_modules: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the modules that the process of a retraining may import: the allowed ones, and those of an object's own
    candidates, which are imported in this process already."""
    own = () if entry.design is None else entry.design.candidate_modules
    return tuple(dict.fromkeys([*allow_modules, *own]))


def _run_name(entry: Entry, seed: int) -> str:
    """Returns the name of a retraining and of its folder in the sweep's."""
    return f"{entry.name}-seed{seed}"


def _done(
    runs: Sequence[tuple[Path, Entry, int]],
    config: Any,
    overrides: Sequence[str],
    *,
    resume: bool,
    allow_modules: Collection[str],
) -> dict[str, Evaluation]:
    """Returns the results of the retrainings that have ended, by their names. Raises ConfigError if they were others
    than these, or had other images than each other. runs: the folder, the network and the seed of each."""
    done = {}
    for folder, entry, seed in runs:
        if run_begun(folder) and not resume:
            raise ConfigError(
                f"--out {folder.parent}",
                f"{folder.name} holds a run already",
                remedy="continue the sweep with --resume, or choose another folder",
            )
        test = load_test(folder) if run_begun(folder) else None
        if test is not None:
            with naming(config, keys_of(RetrainConfig)):
                settings = RetrainConfig.read(config, (*overrides, f"run.seed={seed}"))
            kept = _kept_design(folder, allow_modules)
            design = kept if entry.design is None else entry.design
            if settings.retrain.start is not None:  # the data decide on the number of classes
                design = design.with_classes(kept.classes)
            refuse_changes(folder, resolved_training(settings, design))
            done[folder.name] = test
    _refuse_different_images([folder for folder, *_ in runs if folder.name in done])
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


def _sweep(
    entries: Entries, found: Mapping[str, Outcome], seeds: Sequence[int], config: Path, allow_modules: Collection[str]
) -> RetrainSweep:
    """Returns what there is so far, with the designs that are known only once a retraining has begun."""
    known = []
    for entry in entries.all:
        if entry.design is None:
            begun = [o.folder for o in found.values() if o.network == entry.name and o.test is not None]
            entry = replace(entry, design=_kept_design(begun[0], allow_modules)) if begun else entry
        known.append(entry)
    return RetrainSweep(replace(entries, all=tuple(known)), tuple(found.values()), tuple(seeds), config)
