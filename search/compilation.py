"""Compiles the supernet's candidates with torch.compile (`search.compile`), the same ones in every process."""

from __future__ import annotations

import logging
import statistics
import time
from functools import partial

import torch

from engine.device import autocast, memory_format
from engine.distributed import Group
from engine.errors import UserError
from engine.progress import Progress
from search.plan import Plan
from supernet.compiled import CompileError, compile_candidates, distinct_candidates
from supernet.supernet import Supernet

log = logging.getLogger("search")


def agreed(group: Group, ratios: list[float | None]) -> list[float | None]:
    """Returns process 0's timings of the candidates to every process, because all have to run the same programs. The
    timing of a candidate that torch cannot compile in one of the processes is None."""
    everywhere = zip(*group.gathered(ratios), strict=True)
    return [None if None in candidate else candidate[0] for candidate in everywhere]


def compile_supernet(net: Supernet, plan: Plan, group: Group) -> None:
    """Compiles each distinct candidate, keeps the program if it is faster, and logs the result. Raises UserError if
    torch.compile does not work here."""
    config, space = plan.config, plan.config.space
    count = group.share_of(config.search.batch_size, "search.batch_size") // plan.networks
    images = torch.zeros(count, space.input_channels, space.input_size, space.input_size)  # only their layout counts
    images = images.to(plan.device, memory_format=memory_format(config.run))
    began = time.monotonic()
    with Progress(len(distinct_candidates(net)), 0, "compile", shown=group.first) as progress:
        progress.update(0)  # the first one takes the longest
        try:
            trials = compile_candidates(
                net, images, partial(autocast, config.run, plan.device),
                agree=partial(agreed, group), progress=lambda done, _: progress.update(done),
            )  # fmt: skip
        except CompileError as error:
            needs = (
                "a C++ compiler (g++)"
                if plan.device.type == "cpu"
                else "Triton and a GPU of compute capability 7.0 or newer"
            )
            remedy = f"it needs {needs} here, or set search.compile=false"
            raise UserError("search.compile", f"torch.compile failed ({error})", remedy=remedy) from None
    if not group.first:
        return
    gains = [trial.ratio for trial in trials if trial.kept and trial.ratio is not None]
    gain = f", which take {statistics.median(gains):.2f} of the time there (median)" if gains else ""
    log.info(
        "compiled %d distinct candidates in %.0f s: %d are faster so%s; the rest runs as it is",
        len(trials), time.monotonic() - began, len(gains), gain,
    )  # fmt: skip
    for trial in trials:
        if trial.ratio is None:
            log.warning("search.compile: torch.compile cannot do %s; it runs as it is", trial.layer)
