"""Runs a job of several stages in one folder. A job that was stopped goes on where it was, and a change repeats the
stages that it concerns.

stages.json, in the folder, records what each stage began from and which files it made, all by their SHA-256. It is
written when a stage begins and when it ends, so that a process may be killed at any moment.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from pydantic import Field

from engine.config import Section, validate
from engine.errors import ConfigError
from engine.files import opened, read_json, write_atomically, writing

FILE = "stages.json"
KEPT = "kept"
"""The beginning of the names of folders with files that a stage would have deleted, and has not made."""
J = TypeVar("J")
"""What all stages of a job are given, such as its configuration."""


class StageRecord(Section):
    """What is known of one stage."""

    inputs: dict[str, str]
    """What it began from, by name: the SHA-256 of a file or of settings, or a short text such as a version."""
    outputs: dict[str, str] | None = None
    """The SHA-256 of each file that it made, by the file's path in the folder; null while it runs."""
    line: str = ""
    """Its result in one line."""
    figures: dict[str, Any] = Field(default_factory=dict)
    """Its result as plain values, if they are in no file."""
    seconds: float | None = None
    """The time that the process which ended it took."""


_CLEARED = StageRecord(inputs={})
"""The record of a stage while what it had made is deleted."""


class StagesFile(Section):
    """The content of stages.json."""

    format: Literal["proxylessnas/stages@1"] = "proxylessnas/stages@1"
    job: str = "ship"
    """The kind of job: the command that runs it. Files of earlier versions do not have it, and are of `ship`."""
    stages: dict[str, StageRecord] = Field(default_factory=dict)
    """The stages that have begun, in their order."""


@dataclass(frozen=True)
class Done:
    """The result of a stage."""

    line: str
    files: Sequence[Path] = ()
    """The files that it made."""
    figures: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Stage(Generic[J]):
    """A part of a job."""

    name: str
    summary: str
    """What it does, in a few words."""
    paths: tuple[str, ...]
    """Patterns of what it makes in the folder. All of that is deleted before it begins anew."""
    inputs: Callable[[J, Mapping[str, StageRecord]], Mapping[str, str]]
    """Returns what it begins from. It is called when the stages before it have ended, and gets their records."""
    run: Callable[[J, Mapping[str, StageRecord]], Done]
    """Does the work."""
    resumes: bool = False
    """Whether it goes on with what a process has left that was stopped. If not, that is deleted first."""
    needs: tuple[str, ...] = ()
    """Files of its own without which it cannot go on, such as a run's settings."""
    check: Callable[[J], None] = lambda job: None
    """Raises a UserError if something else that it began from has changed since. It is called before what the stage
    has made is used again."""


def run_stages(
    stages: Sequence[Stage[J]],
    job: J,
    out: Path,
    *,
    kind: str = "ship",
    until: str | None = None,
    say: Callable[[str], None] = print,
) -> StagesFile:
    """Runs the stages that are not done, in their order, and returns what is recorded of all. Call it inside
    `locked(out)`.

    A stage is done if it began from the same inputs and its files are as it made them. If an input has changed, or all
    of its files are gone, what it made is deleted and it runs anew; if some of its files have changed, it makes these
    again. Files among them that no stage has made, or that have changed since, are moved into a folder kept-N, and not
    deleted. kind: the kind of job. until: the name of the last stage to run. say: called with a line for each stage.
    Raises ConfigError if the folder holds a job of another kind, or files at the place of a stage that has never begun,
    or if a file has changed without which a stage cannot go on.
    """
    record = record_to_go_on_with(stages, out, kind)
    for stage in stages:
        before, inputs = record.stages.get(stage.name), dict(stage.inputs(job, record.stages))
        left = _left_to_do(stage, before, inputs, out)
        if before is None:
            refuse_foreign_files([stage], out)
        if left is None:
            assert before is not None  # it is done
            stage.check(job)
            say(f"{stage.name}: done before: {before.line}")
        else:
            if left.words:
                say(f"{stage.name}: {left.words}")
            kept = _kept(stage, left, record, out)
            if kept is not None:
                say(f"{stage.name}: {kept}")
            if left.anew:
                record = _with(record, stage.name, _CLEARED, stages)
                write_stages(out, record)  # first, since a process may be killed while it deletes
                _clear(stage, out)
            for name in left.files:
                with writing(out / name):
                    (out / name).unlink(missing_ok=True)
            record = _with(record, stage.name, StageRecord(inputs=inputs), stages)
            write_stages(out, record)
            began = time.monotonic()
            done = stage.run(job, record.stages)
            ended = StageRecord(
                inputs=inputs,
                outputs={str(path.relative_to(out)): sha256_of(path) for path in sorted(done.files)},
                line=done.line,
                figures=dict(done.figures),
                seconds=round(time.monotonic() - began, 1),
            )
            record = _with(record, stage.name, ended, stages)
            write_stages(out, record)
            say(f"{stage.name}: {done.line}")
        if stage.name == until:
            break
    return record


@dataclass(frozen=True)
class _Left:
    """What is left to do of a stage."""

    words: str = ""
    """Why, if that is not clear."""
    anew: bool = False
    """Whether it begins from the beginning."""
    files: tuple[str, ...] = ()
    """Its files that it makes again."""


def _left_to_do(stage: Stage[J], before: StageRecord | None, inputs: dict[str, str], out: Path) -> _Left | None:
    """Returns what is left to do of a stage; None if it is done. Raises ConfigError, see run_stages."""
    if before is None:
        return _Left(anew=True)
    if before == _CLEARED:
        return _Left("was stopped, so it begins again", anew=True)
    if before.inputs != inputs:
        return _Left(f"{_changed_inputs(before.inputs, inputs)}, so it runs anew", anew=True)
    if before.outputs is None:
        return _Left("goes on") if stage.resumes else _Left("was stopped, so it begins again", anew=True)
    changed = changed_files(before, out)
    if not changed:
        return None
    if not any((out / name).exists() for name in before.outputs):
        return _Left("its files are gone, so it runs anew", anew=True)
    for name in changed:
        if name in stage.needs:
            raise ConfigError(
                str(out / name), f"is not what the stage {stage.name} made",
                remedy=f"put it back, or delete {out / Path(name).parts[0]}: the stage then runs anew",
            )  # fmt: skip
    first = changed[0] + (f" and {len(changed) - 1} more" if len(changed) > 1 else "")
    return _Left(f"{first} not as this stage made it, so that is made again", files=tuple(changed))


def read_stages(out: Path) -> StagesFile | None:
    """Returns the record in a folder; None if there is none. Raises ConfigError if it is damaged, or names files
    outside the folder."""
    path = out / FILE
    if not path.exists():
        return None
    record = validate(StagesFile, read_json(path, "the record of a job's stages"), str(path))
    for stage, one in record.stages.items():
        for name in one.outputs or {}:
            if (
                Path(name).is_absolute() or ".." in Path(name).parts
            ):  # it may be deleted, and the record come from anywhere
                raise ConfigError(f"{path}: {stage}", f"names the file {name}", "files in its own folder")
    return record


def record_to_go_on_with(stages: Sequence[Stage[J]], out: Path, kind: str) -> StagesFile:
    """Returns the record of a job in its folder, an empty one for a job that has not begun.

    Raises ConfigError if the folder holds a job of another kind, or if no job has begun there and it holds what a stage
    would delete.
    """
    record = read_stages(out)
    if record is None:
        refuse_foreign_files(stages, out)
        return StagesFile(job=kind)
    if record.job != kind:
        found = f"holds a job of proxyless-nas {record.job}, whose files this one would delete"
        raise ConfigError(f"--out {out}", found, remedy="choose another folder")
    return record


def write_stages(out: Path, record: StagesFile) -> None:
    """Writes the record into a folder, atomically."""
    write_atomically(out / FILE, json.dumps(record.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n")


def refuse_foreign_files(stages: Sequence[Stage[J]], out: Path) -> None:
    """Raises ConfigError if a folder holds what a stage would delete, and that stage has not made."""
    for stage in stages:
        for pattern in stage.paths:
            for path in sorted(out.glob(pattern)):
                found = f"holds {path.name}, which no job recorded in {FILE} has made"
                remedy = "move it to another place, or choose another folder"
                raise ConfigError(f"--out {out}", found, remedy=remedy)


def changed_files(record: StageRecord, out: Path) -> list[str]:
    """Returns the paths of a stage's files that are missing or are not as it made them."""
    return [name for name, digest in (record.outputs or {}).items() if _digest(out / name) != digest]


def sha256_of(path: Path) -> str:
    """Returns the SHA-256 of a file."""
    with opened(path, "a file of a job") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


def sha256_of_values(values: Any) -> str:
    """Returns the SHA-256 of plain values, such as settings."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _digest(path: Path) -> str | None:
    return sha256_of(path) if path.is_file() else None


def _changed_inputs(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Returns which inputs differ, in words."""
    names = [name for name in dict.fromkeys([*before, *now]) if before.get(name) != now.get(name)]
    return f"{' and '.join(names)} {'has' if len(names) == 1 else 'have'} changed"


def _with(record: StagesFile, name: str, one: StageRecord, stages: Sequence[Stage[J]]) -> StagesFile:
    """Returns the record with another entry of one stage, in the order of the stages."""
    known = {**record.stages, name: one}
    in_order = {stage.name: known[stage.name] for stage in stages if stage.name in known}
    return StagesFile(job=record.job, stages=in_order)


def _kept(stage: Stage[J], left: _Left, record: StagesFile, out: Path) -> str | None:
    """Moves the files that would be deleted, and are not as a stage has made them, into a new folder of the job, and
    says so. Returns None if there are none, or if the stage has not ended before, since all is its own then."""
    before = record.stages.get(stage.name)
    if before is None or before.outputs is None:
        return None
    made = {name: digest for one in record.stages.values() for name, digest in (one.outputs or {}).items()}
    places = [path for pattern in stage.paths for path in sorted(out.glob(pattern))] if left.anew else []
    paths = [out / name for name in left.files]
    for place in places:
        paths += sorted(place.rglob("*")) if place.is_dir() and not place.is_symlink() else [place]
    names = [str(path.relative_to(out)) for path in dict.fromkeys(paths) if path.is_file()]
    hidden = {name for name in names if any(part.startswith(".") for part in Path(name).parts)}
    others = [name for name in names if name not in hidden and made.get(name) != _digest(out / name)]
    if not others:
        return None
    folder = next(place for n in itertools.count(1) if not (place := out / f"{KEPT}-{n}").exists())
    for name in others:
        with writing(folder / name):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (out / name).rename(folder / name)
    first = others[0] + (f" and {len(others) - 1} more" if len(others) > 1 else "")
    return f"{first} not as a stage made it, so that is kept in {folder.name}"


def _clear(stage: Stage[J], out: Path) -> None:
    """Deletes all that a stage has made."""
    for pattern in stage.paths:
        for path in sorted(out.glob(pattern)):
            with writing(path):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()
