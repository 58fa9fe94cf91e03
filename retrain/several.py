"""Several networks retrained alike, as many at a time as there are cores."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from engine.progress import Report, silent
from engine.training import Evaluation
from retrain.config import RetrainFile
from retrain.loop import retrain
from supernet.architecture import Architecture


def retrain_all(
    config: RetrainFile, architectures: Sequence[Architecture], folders: Sequence[Path], report: Report = silent
) -> list[Evaluation]:
    """Retrains each architecture into its folder, a process each, and returns their results on the test images.

    Each result is the one that `retrain` alone gives. config: of a CPU; run.threads counts for each process. The first
    that fails ends all: its error is raised.
    """
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    workers = max(1, min(len(architectures), cores // (config.run.threads or 1)))
    what = "retraining the derived and the random networks"
    report(what, 0, len(architectures))
    # spawned, since a fork would copy the locks of this process's threads
    pool = concurrent.futures.ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"))
    try:
        running = [pool.submit(_retrain, config, *job) for job in zip(architectures, folders, strict=True)]
        for done, job in enumerate(concurrent.futures.as_completed(running), 1):
            job.result()
            report(what, done, len(running))
        return [job.result() for job in running]
    finally:
        pool.shutdown(cancel_futures=True)


def _retrain(config: RetrainFile, architecture: Architecture, out: Path) -> Evaluation:
    return retrain(config, architecture, out, shown=False).test
