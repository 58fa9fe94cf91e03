"""The run folder: config.yaml, metrics.jsonl, event files, checkpoints/, results."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from engine.config import config_text, differences, load_config
from engine.errors import ConfigError
from engine.files import write_atomically

log = logging.getLogger("engine")


def dump_config(config: BaseModel | dict[str, Any], path: Path) -> None:
    """Write a configuration as YAML, atomically; `load_config` reads the same values from it."""
    write_atomically(path, config_text(config))


def run_begun(out: Path) -> bool:
    """Whether a folder holds a run. A start that failed before its first step leaves only its config: no run yet."""
    begun = (out / "metrics.jsonl").exists() or (out / "checkpoints").exists()
    return begun and (out / "config.yaml").exists()


def refuse_changes(out: Path, resolved: dict[str, Any]) -> None:
    """ConfigError, naming each difference, unless the run in `out` has this very config."""
    config_file = out / "config.yaml"
    changed = differences(load_config(config_file), resolved)
    if changed:
        raise ConfigError(
            f"--resume: the config differs from {config_file}: {'; '.join(changed)}; undo the change, or start "
            "a new run in another folder"
        )


def open_run(out: Path, resolved: dict[str, Any], *, resume: bool) -> None:
    """Create the folder and its config.yaml, or check that the run there has this very config.

    Raises ConfigError if the folder holds a run and `resume` is False, if its config differs, or if `resume` finds
    other files in place of a run (a mistyped --out); nothing is deleted. A resume in an empty folder begins.
    """
    config_file = out / "config.yaml"
    try:
        out.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ConfigError(f"--out {out}: is a file, or lies below one; expected a folder") from None
    except OSError as error:
        raise ConfigError(f"--out {out}: cannot be made ({error.strerror}); choose a folder you may write") from None
    if not os.access(out, os.W_OK | os.X_OK):
        raise ConfigError(f"--out {out}: is not writable; choose a folder you may write")
    if run_begun(out):
        if not resume:
            raise ConfigError(f"--out {out}: holds a run already; continue it with --resume, or choose another folder")
        refuse_changes(out, resolved)
        return
    if not config_file.exists() and (out / "checkpoints").exists():
        raise ConfigError(f"--out {out}: has checkpoints but no config.yaml; put it back, or choose another folder")
    if resume:
        # Hidden files do not count: they are the system's, or what a start killed while writing config.yaml has left
        others = sorted(path.name for path in out.iterdir() if not path.name.startswith(".") and path != config_file)
        if others:
            raise ConfigError(
                f"--resume: {out} holds no run but other files ({others[0]}{', ...' if len(others) > 1 else ''}); "
                "correct --out, or begin there without --resume"
            )
        log.warning("%s holds no run yet; starting from the beginning", out)
    dump_config(resolved, config_file)
