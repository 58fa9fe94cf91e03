"""Retrains several networks with the same settings, as many at a time as there are cores.

It is for programs that retrain a few networks on the way, such as the quick start: an error ends it. A sweep with logs
and several seeds is proxyless_nas/retrainings.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.config import validate
from engine.data.readers import worker_count
from engine.errors import ConfigError
from engine.evaluation import Evaluation
from engine.processes import side_by_side
from engine.progress import Report, silent
from engine.runs.folder import run_begun
from retrain.config import RetrainConfig
from retrain.run import retrain
from supernet.architecture import Architecture
from supernet.space import Space, SpaceConfig


def retrain_all(
    config: RetrainConfig,
    architectures: Sequence[Architecture],
    folders: Sequence[Path],
    report: Report = silent,
    what: str = "retraining networks",
    *,
    resume: bool = False,
) -> list[Evaluation]:
    """Retrains each architecture into its folder, in a process each, and returns their results on the test images.

    Each result is the one that `retrain` alone gives. run.threads counts for each process; if it is null, a network
    takes all cores, so that they are trained one after the other. what: the words for this work in a report. Raises
    ConfigError if the config is not for a CPU, and the errors of `side_by_side`.
    """
    if config.run.device != "cpu":
        found = "networks are retrained side by side on a CPU alone"
        raise ConfigError("run.device", found, remedy="set run.device=cpu")
    cores = worker_count(None)  # those that the system and the container allow
    workers = max(1, min(len(architectures), cores // (config.run.threads or cores)))
    report(what, 0, len(architectures))
    done = itertools.count(1)
    jobs = [
        (config, a.space.config.model_dump(mode="json"), a.paths, a.name, folder, resume)
        for a, folder in zip(architectures, folders, strict=True)
    ]
    return side_by_side(_retrain, jobs, workers, lambda place, result: report(what, next(done), len(jobs)))


def _retrain(
    config: RetrainConfig, space: dict[str, Any], paths: tuple[int, ...], name: str, out: Path, resume: bool
) -> Evaluation:
    """Retrains one network. Runs in a process of its own, which gets plain values."""
    # validating the space imports the user's own candidates, which a new process does not know
    architecture = Architecture(Space(validate(SpaceConfig, space, "space")), paths, name)
    return retrain(config, architecture, out, resume=resume and run_begun(out), shown=False).test
