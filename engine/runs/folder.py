"""Opens a run folder.

It holds config.yaml, inputs.json, images.csv.gz, metrics.jsonl, event files, checkpoints/ and results.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from engine.config import config_text, differences, load_config
from engine.curves.event_files import PATTERN
from engine.errors import ConfigError
from engine.files import remove_stale, write_atomically
from engine.runs.inputs import FILE, LIST, Inputs, record, refuse_other_inputs

log = logging.getLogger("engine")

_TRACES = ("checkpoints", "metrics.jsonl", PATTERN, "tensorboard")
"""Patterns of the names of files that a run writes once it has begun; earlier versions wrote the last one. A start that
failed before its first step leaves config.yaml and inputs.json."""


TABLES = "tables"
"""The folder of a run with copies of the latency tables that it was given as objects."""
_FORMERLY_RECORDED = (("data", "workers"),)
"""Section and key of settings that earlier versions wrote into config.yaml, and that a resume may change."""


def _traces(out: Path) -> list[Path]:
    """Returns the files in `out` by which a run that has begun is recognised."""
    return [path for pattern in _TRACES for path in sorted(out.glob(pattern))]


def dump_config(config: BaseModel | dict[str, Any], path: Path) -> None:
    """Writes a configuration as YAML, atomically; `load_config` reads the same values from it."""
    write_atomically(path, config_text(config))


def run_begun(out: Path) -> bool:
    """Returns whether a folder holds a run. A start that failed before its first step leaves no run yet."""
    return bool(_traces(out)) and (out / "config.yaml").exists()


def refuse_changes(out: Path, resolved: dict[str, Any]) -> None:
    """Raises ConfigError, which names each difference, unless the run in `out` has this very config.

    A file whose hash is recorded beside its path may have another path by now: it, or the run's folder in which it
    lies, has been moved.
    """
    config_file = out / "config.yaml"
    recorded = load_config(config_file)
    if recorded.keys() - resolved.keys() and resolved.keys() - recorded.keys():
        there, here = (", ".join(sorted(sections)) for sections in (recorded, resolved))
        raise ConfigError(
            "--resume",
            f"{config_file} is of a run of another kind (its sections are {there}; those of this one are {here})",
            remedy="correct --out or the config, or start a new run in another folder",
        )
    for section, key in _FORMERLY_RECORDED:
        if isinstance(recorded.get(section), dict):
            recorded[section].pop(key, None)
    _follow_moved_files(recorded, resolved)
    changed = differences(recorded, resolved)
    if changed:
        found = f"the config differs from {config_file}: {'; '.join(changed)}"
        raise ConfigError("--resume", found, remedy="undo the change, or start a new run in another folder")


def _follow_moved_files(recorded: Any, now: Any) -> None:
    """Changes the recorded path at each key to the path that it has now, if both have the same hash at the key
    KEY_sha256."""
    if isinstance(recorded, list) and isinstance(now, list):
        for old, new in zip(recorded, now, strict=False):
            _follow_moved_files(old, new)
    if not (isinstance(recorded, dict) and isinstance(now, dict)):
        return
    for key in recorded.keys() & now.keys():
        sha256 = recorded.get(f"{key}_sha256")
        if sha256 and sha256 == now.get(f"{key}_sha256"):
            recorded[key] = now[key]
        else:
            _follow_moved_files(recorded[key], now[key])


def refuse_begun(out: Path, *, resume: bool) -> None:
    """Raises ConfigError if the folder holds a run and `resume` is False."""
    if not resume and run_begun(out):
        remedy = "continue it with --resume, or choose another folder"
        raise ConfigError(f"--out {out}", "holds a run already", remedy=remedy)


def open_run(out: Path, resolved: dict[str, Any], inputs: Inputs, *, resume: bool) -> None:
    """Writes config.yaml and inputs.json with its list of images, or checks that the run there has this config and
    began with these inputs.

    Call it inside `locked(out)`, which makes the folder. Raises ConfigError if the folder holds a run and `resume` is
    False; if its config or inputs differ; if it holds files of a run without config.yaml, or a config.yaml that no run
    has written; or if `resume` is True and the folder holds other files but no run (a mistyped --out). Nothing is
    deleted but half-written files of killed processes. A resume in an empty folder begins a run.
    """
    config_file = out / "config.yaml"
    refuse_begun(out, resume=resume)
    if run_begun(out):
        refuse_changes(out, resolved)
        refuse_other_inputs(out, inputs)
        for folder in (out, *filter(Path.is_dir, _traces(out))):
            remove_stale(folder)
        return
    if not config_file.exists():
        if traces := _traces(out):
            found = f"has {traces[0].name} but no config.yaml"
            raise ConfigError(f"--out {out}", found, remedy="put it back, or choose another folder")
    elif not (out / FILE).exists():
        found = "has a config.yaml that no run has written"
        raise ConfigError(f"--out {out}", found, remedy="choose another folder")
    if resume:
        # Hidden files do not count: the system makes them, or a start that was killed while writing
        own = {config_file.name, FILE, LIST, TABLES}
        others = sorted(path.name for path in out.iterdir() if not path.name.startswith(".") and path.name not in own)
        if others:
            raise ConfigError(
                "--resume",
                f"{out} holds no run but other files ({others[0]}{', ...' if len(others) > 1 else ''})",
                remedy="correct --out, or begin there without --resume",
            )
        log.warning("%s holds no run yet; starting from the beginning", out)
    remove_stale(out)
    record(out, inputs)  # inputs.json first, since a config.yaml without it belongs to no run
    dump_config(resolved, config_file)
