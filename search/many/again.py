"""Computes the end of a search again from its folder: the derivation, the accuracy and the judgement, but no timing."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from engine.device import autocast
from engine.errors import ConfigError
from engine.evaluation import Evaluation
from engine.files import in_home
from engine.progress import Report, silent
from search.derive.derivation import Derivation, derive
from search.judge import Judge, Judgement
from search.limits.limit import Limit
from search.many.family import Scorer, Scoring, newest_state
from search.opening import resolved_run
from search.plan import Plan
from search.result import load_result
from supernet.alpha import Alpha
from supernet.architecture import Architecture


@dataclass(frozen=True)
class Again:
    """What the newest checkpoint of a search gives."""

    step: int
    """The step of the checkpoint."""
    architecture: Architecture
    derivation: Derivation
    limits: tuple[Limit, ...]
    """The limits of the search, with their own bounds."""
    bounds: tuple[float, ...]
    """The bound that the derivation was given for each limit on a sum, in its unit: where the search timed its network,
    the one that the timings asked for."""
    accuracy: Evaluation
    """With the supernet's weights, on the validation images."""
    judged: Judgement | None
    """None if there are too few random networks of equal cost."""


def derive_again(run: Path, *, allow_modules: Collection[str] = (), report: Report = silent) -> Again:
    """Derives the network of a finished search once more, exactly, at the bounds that the search itself used in the
    end, and scores and judges it. Nothing is written.

    run: the folder of the search. allow_modules: as in `derive_family`. Raises ConfigError if the search has not ended,
    CheckpointError, and TableError if a latency table is not the one of the search.
    """
    run = in_home(run)
    resolved, result = resolved_run(run, allow_modules), load_result(run)
    if result is None:
        raise ConfigError(str(run), "has no result.json, so the search has not ended", "a search that has ended")
    config = resolved.config
    scoring = Scoring.prepare(config)
    step, state, wanted = newest_state(run, resolved.space, config.search.derive)
    scorer = Scorer.of(resolved.space, state, scoring)
    given = {figures.name: figures.derived_at for figures in result.limits}
    limits = [replace(limit, bound=given.get(limit.name) or limit.bound) for limit in resolved.additive]
    derivation = derive(
        wanted, limits, config.search.derive, config.search.derive_among, lambda paths: scorer.score(paths).loss, report
    )
    plan = Plan(config, resolved.space, resolved.limits, scoring.device, scoring.training, scoring.validation)
    judge = Judge(plan, partial(autocast, config.run, scoring.device))
    alpha = Alpha.of_space(resolved.space, state["alpha"])
    judged = judge.judgement(scorer.net, alpha, derivation.paths, report)
    return Again(
        step, Architecture(resolved.space, derivation.paths, run.name), derivation, resolved.limits,
        tuple(limit.bound for limit in limits), scorer.score(derivation.paths), judged,
    )  # fmt: skip
