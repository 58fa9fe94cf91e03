"""Describes how a latency table of a search can be made, verified or recalibrated: in words, and as actions of the
command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from engine.errors import Action
from engine.shipped import as_argument
from latency.config import MeasureConfig
from latency.existing import free_file

_VERIFY = ("--verify", "40")
"""The arguments of `measure` that verify a table."""


@dataclass(frozen=True)
class Making:
    """The settings with which one table of a limit is made."""

    source: str
    """The search's file, or the name under which it comes with the package."""
    table: Path
    measure: MeasureConfig
    """The settings by which the table's device is measured."""
    overrides: tuple[str, ...] = ()
    """The overrides that shape a table, as `key=value`: those of the space and of `measure`, and the limit's own
    `measure`."""

    @classmethod
    def of(
        cls,
        source: Path | str,
        table: Path,
        measure: MeasureConfig,
        overrides: Sequence[str] = (),
        own: Mapping[str, object] | None = None,
    ) -> Making:
        """Returns the settings for `table`. overrides: those of the search. own: the keys that the limit's own
        `measure` sets."""
        shaping = [o for o in overrides if o.startswith(("space.", "measure."))]
        shaping += [f"measure.{key}={'null' if value is None else value}" for key, value in (own or {}).items()]
        return cls(as_argument(source), table, measure, tuple(shaping))

    @property
    def external(self) -> bool:
        """Whether the table's device is another one, so that the table is imported instead of measured."""
        return self.measure.device == "external"

    @property
    def free(self) -> Path:
        """A path beside the table that no file has: a command must never overwrite a table."""
        return free_file(self.table)

    def action(self, *more: str, out: Path | None = None) -> Action:
        """Returns the command that makes the table. more: how, if its device is this one; by default it is verified
        too, since a search warns of a table that is not. out: another path."""
        out = out or self.table
        if self.external:
            return Action("import", ("SOURCE", "--out", str(out)))
        more = more or _VERIFY
        return Action("measure", (self.source, "--out", str(out), *more, *self.overrides))

    def words(self, what: str) -> str:
        """Returns what to do, to be followed by the command. On a machine without a GPU, it names where the command
        works."""
        if self.external:
            return f"make {what} by import, kit or fit, whichever fits the device (docs/latency.md)"
        if self.measure.device == "cuda" and not torch.cuda.is_available():
            what += " where the GPU is, copy it here to search with measure.device=external, and make it"
        return f"make {what}"

    def another(self, key: str) -> tuple[str, Action]:
        """Returns how to make another table beside this one, which stays as it is. key: the place of the table in the
        config."""
        return self.words(f"another table ({self.free}, to be named in {key})"), self.action(out=self.free)
