"""Times networks and ops in rounds, and writes what it measured.

This one file needs Python (3.8 or newer), numpy, and onnxruntime or the LiteRT interpreter, nothing else. A device kit
holds a copy of it:

    python bench.py            # in the kit's folder, on the device: times everything, writes results.json

On this machine the same functions time every runtime, so that a table means the same wherever it was made.
"""

from __future__ import annotations

import argparse
import gc
import gzip
import hashlib
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

MANIFEST_FORMAT = "proxylessnas/device-kit@1"
RESULTS_FORMAT = "proxylessnas/device-results@1"


def timed_rounds(jobs, open_job, *, rounds, passes, warmup, seed, progress=None):
    """Time every job once in each round, the jobs of a round in random order: drift of the machine hits all alike.

    jobs: ids. open_job(id) -> an object with run(n): n forward passes; times(n): milliseconds of n passes, one number
    per pass, or one per layer and pass; close(). The `warmup` passes after opening are thrown away.
    progress(done, total) is called after each job. Returns {id: [rounds][passes] or [rounds][passes][layers]}.
    """
    rng = np.random.default_rng(seed)
    samples = {job: [] for job in jobs}
    done, total = 0, rounds * len(jobs)
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()  # a collection in the middle of a pass would be a part of its time
    try:
        for _ in range(rounds):
            for i in rng.permutation(len(jobs)):
                opened = open_job(jobs[i])
                try:
                    opened.run(warmup)
                    samples[jobs[i]].append(opened.times(passes))
                finally:
                    opened.close()
                done += 1
                if progress:
                    progress(done, total)
            gc.collect()
    finally:
        if collecting:
            gc.enable()
    return samples
