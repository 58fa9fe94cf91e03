"""Times jobs in rounds, in random order."""

from __future__ import annotations

import gc
from typing import Any, Callable, Sequence

import numpy as np


def timed_rounds(
    schedule: Sequence[Sequence[str]],
    open_job: Callable[[str], Any],
    *,
    passes: int,
    warmup: int,
    seed: int,
    joules: Callable[[], float] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[dict[str, list[list[Any]]], dict[str, list[float]]]:
    """Times the jobs of each round in random order, so that a drift of the machine affects all alike.

    schedule: a list of rounds, each a list of job ids. open_job(id): returns an object with the methods of Model. The
    `warmup` passes after opening are thrown away. joules(): returns the joules used so far; None if energy is not
    counted. progress(done, total): called after each job. Returns (samples, energy): {id: [round][pass] or
    [round][pass][layer]} in ms, {id: [round]} in mJ per pass.
    """
    rng = np.random.default_rng(seed)
    samples: dict[str, list[list[Any]]] = {}
    energy: dict[str, list[float]] = {}
    done, total = 0, sum(len(jobs) for jobs in schedule)
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()  # a collection in the middle of a pass would count as its time
    try:
        for jobs in schedule:
            for i in rng.permutation(len(jobs)):
                job = jobs[i]
                opened = open_job(job)
                try:
                    opened.run(warmup)
                    before = joules() if joules else 0.0
                    samples.setdefault(job, []).append(opened.times(passes))
                    if joules:
                        energy.setdefault(job, []).append((joules() - before) * 1e3 / passes)
                finally:
                    opened.close()
                done += 1
                if progress:
                    progress(done, total)
            gc.collect()
    finally:
        if collecting:
            gc.enable()
    return samples, energy
