"""Trains every network of a small space from scratch, keeps the accuracies in a JSON file, and reads them again.

For benchmarks that compare what a search derives with the true accuracies of all networks.
"""

import json
import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import UserError
from engine.files import write_atomically
from latency.device import made_on
from retrain.config import RetrainConfig
from retrain.run import retrain
from search.baseline import every_architecture
from supernet.architecture import Architecture
from supernet.space import Space

Paths = tuple[int, ...]


def all_paths(space: Space) -> list[Paths]:
    """Returns the paths of every network of the space."""
    return list(map(tuple, every_architecture(space).tolist()))


def key(space: Space, paths: Paths) -> str:
    """Returns the name of a network in the file: its candidates, one an edge."""
    return " ".join(Architecture(space, paths).names)


def alike(space: Space, paths: Sequence[Paths]) -> list[list[Paths]]:
    """Returns the groups of paths that are one network: they differ only in which of several equal edges is skipped."""
    found: dict[tuple[str, ...], list[Paths]] = {}
    for one in paths:
        layers = Architecture(space, one).layers
        found.setdefault(tuple(str(layer) for layer in layers if not layer.is_skip), []).append(one)
    return list(found.values())


@dataclass(frozen=True)
class Trainings:
    """How the networks of a space are trained for the truth: as in the file `config` (scripts/run_retrain.py)."""

    space: Space
    config: Path
    data: Sequence[str]
    """Overrides of the data section."""

    def top1(self, paths: Paths, seed: int) -> tuple[float, float]:
        """Trains one network; returns its top-1 in percent on the test images, and the seconds that it took."""
        config = RetrainConfig.read(self.config, [f"run.seed={seed}", *self.data])
        with tempfile.TemporaryDirectory() as folder:
            began = time.monotonic()
            result = retrain(config, Architecture(self.space, paths), Path(folder))
            return round(result.test.top1, 4), time.monotonic() - began

    def make_truth(self, file: Path, seeds: int, about: dict[str, str]) -> None:
        """Trains every network with the seeds 0, 1, ... and keeps each accuracy in `file` at once; continues where an
        earlier call stopped. Paths that are one network are trained once. about: what a new file says of itself."""
        if file.exists():
            record = json.loads(file.read_text())
        else:
            record = about | made_on() | {"date": date.today().isoformat(), "top1": {}, "seconds": []}
        groups = alike(self.space, all_paths(self.space))
        for seed in range(seeds):
            # in a random order, so that the networks of an unfinished file are a fair sample
            for g in np.random.default_rng(0).permutation(len(groups)).tolist():
                known = [record["top1"].setdefault(key(self.space, paths), []) for paths in groups[g]]
                lacking = [values for values in known if len(values) <= seed]
                if not lacking:
                    continue
                top1 = next((values[seed] for values in known if len(values) > seed), None)
                if top1 is None:
                    top1, seconds = self.top1(groups[g][0], seed)
                    record["seconds"].append(round(seconds, 1))
                for values in lacking:
                    values.append(top1)
                write_atomically(file, json.dumps(record, indent=1) + "\n")


@dataclass(frozen=True)
class Truth:
    """The accuracies of all networks: top1 (networks, seeds) in the order of `paths`."""

    paths: list[Paths]
    top1: np.ndarray
    """Of the seeds with which all networks have been trained."""
    record: dict[str, Any]

    @classmethod
    def load(cls, file: Path, space: Space) -> "Truth":
        """Reads a file of `Trainings.make_truth`. Raises UserError if it is not of this space, or not complete."""
        record = json.loads(file.read_text())
        paths = all_paths(space)
        names = [key(space, p) for p in paths]
        if set(record["top1"]) != set(names):
            raise UserError(f"{file}: is not of this space, or not complete; make it anew, or to its end")
        seeds = min(len(record["top1"][name]) for name in names)
        return cls(paths, np.array([record["top1"][name][:seeds] for name in names]), record)

    @property
    def accuracy(self) -> np.ndarray:
        """The mean over seeds: what counts as a network's true accuracy."""
        mean: np.ndarray = self.top1.mean(axis=1)
        return mean

    @property
    def twice(self) -> np.ndarray:
        """(networks, 2): the first two accuracies of each network that has been trained twice; none if none has."""
        pairs = [values[:2] for values in self.record["top1"].values() if len(values) > 1]
        return np.array(pairs, dtype=float).reshape(-1, 2)

    @property
    def seed_noise(self) -> float:
        """Standard deviation of one training over seeds, all networks pooled that have been trained twice."""
        trained = self.top1 if self.top1.shape[1] > 1 else self.twice
        return float(np.sqrt(trained.var(axis=1, ddof=1).mean()))

    @property
    def noise(self) -> float:
        """Standard error of `accuracy`."""
        return self.seed_noise / math.sqrt(self.top1.shape[1])

    @property
    def reliability(self) -> float:
        """Correlation between the first two trainings, over the networks that have two."""
        return float(np.corrcoef(self.twice.T)[0, 1])

    def reproduced(self, trainings: Trainings, networks: Sequence[int]) -> list[dict[str, Any]]:
        """Retrain entries and compare, each with a seed that is another one in each call."""
        same_device = all(self.record[name] == value for name, value in made_on().items())
        rng = np.random.default_rng()
        found = []
        for i in networks:
            seed = int(rng.integers(self.top1.shape[1]))
            top1, seconds = trainings.top1(self.paths[i], seed)
            known = float(self.top1[i, seed])
            allowed = 0.0 if same_device else 4 * math.sqrt(2) * self.seed_noise
            found.append(
                {
                    "network": key(trainings.space, self.paths[i]), "seed": seed, "truth": known, "top1": top1,
                    "holds": abs(top1 - known) <= allowed, "seconds": seconds,
                }
            )  # fmt: skip
        return found
