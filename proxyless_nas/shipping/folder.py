"""The folder of a job: its settings, its latency tables, and the names of what the stages make in it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from engine.config import validate
from engine.errors import ConfigError
from engine.files import write_atomically
from engine.runs.stages import StageRecord, sha256_of_values
from latency.config import MeasureConfig
from proxyless_nas.shipping.config import ShipConfig
from search.config import SearchConfig
from search.given import with_paths
from search.own import own_modules
from search.result import ResultFile, load_result

CONFIG = "ship.yaml"
"""The resolved configuration in the job's folder."""
DERIVATION, EVALUATION = "derive/derivation.json", "evaluate/evaluation.json"
ACCURACY = "accuracy.json"
"""The file beside the exported ones with their accuracies on the test images."""
TIME = "time"
"""The folder of the timings of the exported files: timings.json beside these has those of other devices."""
FAMILY = ("search/architecture-*.json", "search/pareto*")
"""The networks for other bounds, which the stage `derive` makes."""
ARCHITECTURE, DERIVED = "search/architecture.json", "derive/architecture.json"
"""The network as the search has named it, and as the job names it: the stages after `derive` use the latter."""


Records = Mapping[str, StageRecord]


@dataclass(frozen=True)
class UsedFile:
    """A latency table that a limit of the search names."""

    path: Path
    """As the configuration has it."""
    copy: Path
    """Its place in the job's folder."""
    measure: MeasureConfig
    """How it is measured."""

    @property
    def name(self) -> str:
        return f"tables/{self.copy.name}"


@dataclass(frozen=True)
class Job:
    """What every stage is given."""

    out: Path
    """The folder of the job, in full."""
    config: ShipConfig

    @cached_property
    def tables(self) -> list[UsedFile]:
        """The latency tables of the limits, each once."""
        search = self.config.search
        found: dict[Path, MeasureConfig] = {}
        for i, limit in enumerate(search.limits):
            own = limit.measure.model_dump(mode="json", exclude_unset=True) if limit.measure else {}
            if limit.tables:  # of several devices
                own = {"device": "external"}
            for path in limit.files:
                whole = search.measure.model_dump(mode="json") | own
                found.setdefault(path, validate(MeasureConfig, whole, f"search: limits.{i}.measure"))
        counts = Counter(path.name for path in found)
        names = [path.name if counts[path.name] == 1 else f"{i}-{path.name}" for i, path in enumerate(found)]
        return [
            UsedFile(path, self.out / "tables" / name, measure)
            for (path, measure), name in zip(found.items(), names, strict=True)
        ]

    @cached_property
    def search(self) -> SearchConfig:
        """The configuration of the search, whose limits name the tables of the job's folder."""
        return with_paths(self.config.search, {table.path: table.copy for table in self.tables})

    @cached_property
    def modules(self) -> tuple[str, ...]:
        """The user's own modules that the configuration names, which may run therefore."""
        of_retraining = self.config.retrain.data.module
        return (*(module for _, module in own_modules(self.config.search)), *filter(None, [of_retraining]))

    @property
    def checkpoint(self) -> Path:
        """The newest checkpoint of the retraining. Raises ConfigError if there is none."""
        folder = self.out / "retrain" / "checkpoints"
        steps = sorted(folder.glob("step-*.pt"))
        if not steps:
            raise ConfigError(str(folder), "has no checkpoint", remedy="run the same command without --verify")
        return steps[-1]


def result_of(job: Job) -> ResultFile | None:
    """Returns the result of the job's search."""
    return load_result(job.out / "search")


def hash_of(*models: Any) -> str:
    """Returns the hash of settings."""
    return sha256_of_values([model.model_dump(mode="json") for model in models])


def files_in(folder: Path) -> list[Path]:
    """Returns the files of a folder but hidden ones."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return [path for path in paths if not any(part.startswith(".") for part in path.relative_to(folder).parts)]


def write_values(path: Path, values: Any) -> None:
    write_atomically(path, json.dumps(values, indent=1, ensure_ascii=False) + "\n")
