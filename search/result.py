"""`result.json` and `architecture.json` in a search's folder: what it found, for people and other programs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from engine.config import Section
from engine.errors import ConfigError
from engine.evaluation import Evaluation
from engine.files import read_bytes, write_atomically
from engine.quantities import quantity
from search.config import BoundKind
from search.derive.clock import Reading
from search.derive.outcome import LimitOutcome, MeasuredDerivation
from search.judge import Judgement
from search.learn.objective import expected_cost
from search.limits.limit import Limit, additive
from supernet.alpha import Alpha
from supernet.architecture import Architecture


class MeasuredFigures(Section):
    """The derived network timed on this machine, in ms."""

    median_ms: float
    """The median of the timing that decided."""
    noise_ms: float
    """Standard deviation between the rounds of the timing."""
    standard_error_ms: float | None = None
    """The standard error of `median_ms`; null in a file that an earlier version wrote."""
    drift: float
    """Measured over predicted latency of the reference timed in turn with it."""
    believed: bool
    """Whether the timing is reliable: noise and drift are small enough to base a decision on it."""
    confirmation_ms: float
    """Median of a second timing, independent of the one that decided."""
    confirmation_noise_ms: float

    @classmethod
    def of(cls, decisive: Reading, second: Reading) -> MeasuredFigures:
        """Returns the figures of the reading that decided and of an independent second one."""
        return cls(
            median_ms=decisive.timing.median_ms, noise_ms=decisive.timing.noise_ms,
            standard_error_ms=decisive.timing.standard_error_ms, drift=decisive.drift, believed=decisive.reliable,
            confirmation_ms=second.timing.median_ms, confirmation_noise_ms=second.timing.noise_ms,
        )  # fmt: skip


class LimitFigures(Section):
    """One limit: what was asked, what alpha expects, what the derived network is predicted to need. All in `unit`."""

    name: str
    """As curves and messages have it: the metric, with its table's name where several limits share a metric."""
    metric: str
    unit: str
    at: float | None = None
    """The bound; exactly one of `at` and `below` is given."""
    below: float | None = None
    predicted: float
    """The cost of the derived network: the sum of its table entries."""
    expected: float | None = None
    """Over the networks that the last alpha draws; none for peak_activation_bytes, which is no sum."""
    measured: MeasuredFigures | None = None
    """null where its table is not of this machine."""
    derived_at: float | None = None
    """The bound that the derivation of this network was given, which the timings may have moved; null where the network
    was not timed, or in a file that an earlier version wrote."""
    table: str | None = None
    tables: tuple[str, ...] = ()
    """The tables of a limit on several devices, which `combine` combines."""
    combine: str | None = None

    @classmethod
    def of(cls, outcome: LimitOutcome, expected: float | None) -> LimitFigures:
        """Returns the figures of a limit's outcome. expected: its cost over the networks that the last alpha draws."""
        limit = outcome.limit
        return cls(
            name=limit.name, metric=limit.metric, unit=limit.unit, predicted=float(outcome.predicted),
            expected=expected,
            measured=MeasuredFigures.of(*outcome.readings) if outcome.readings else None,
            derived_at=next((one.asked for one in outcome.tries if one.reading is outcome.readings[0]), None),
            table=str(limit.source.path) if limit.source else None,
            tables=() if limit.source else tuple(str(source.path) for source in limit.sources),
            combine=limit.combined,
            at=limit.bound if limit.kind == "at" else None, below=limit.bound if limit.kind == "below" else None,
        )  # fmt: skip

    @property
    def kind(self) -> BoundKind:
        """The key that has the bound."""
        return "below" if self.at is None else "at"

    @property
    def bound(self) -> float:
        """The bound, in `unit`."""
        bound = self.below if self.at is None else self.at
        assert bound is not None  # one is given
        return bound

    @property
    def asked(self) -> str:
        """The kind and the bound in words, e.g. `at 20 ms`."""
        return f"{self.kind} {quantity(self.bound, self.unit)}"


class ResultFile(Section):
    """The content of result.json."""

    format: Literal["proxylessnas/search-result@1"] = "proxylessnas/search-result@1"
    architecture: str
    """Its name, as in architecture.json beside this file."""
    seed: int
    top1: float
    """Percent, of the derived network with the supernet's weights, on `images` validation images."""
    top5: float
    loss: float | None
    """null where it is not finite."""
    images: int
    limits: tuple[LimitFigures, ...]
    """In the order of the config, peak_activation_bytes last."""
    met: bool | None
    """Whether every limit is met: measured where it was timed, else predicted. null: the timing proves nothing."""
    tries: int
    """Derivations timed until one was accepted; 0 where no limit's table is of this machine."""
    params: int
    macs: int
    judgement: Judgement | None = None
    """null where no random networks of equal cost exist, or in a file that an earlier version wrote."""
    log_probability: float
    """The log probability of the derived network under what the derivation maximised: the last alpha, or, of a
    regression that was derived within its limits, alpha before its projection."""
    notes: tuple[str, ...]
    """Warnings: alarms during the search, notes on alpha and on the derivation."""
    steps: int
    """Weights steps, warm-up included."""
    seconds: float
    """The wall-clock time of all commands that worked on the search; an interrupted one counts up to its last
    checkpoint."""
    resumed_at: int
    """The step after which the process that ended the search began; 0 if one process did all."""


def result_of(
    architecture: Architecture,
    alpha: Alpha,
    measured: MeasuredDerivation,
    accuracy: Evaluation,
    judged: Judgement | None = None,
    *,
    notes: Sequence[str],
    seed: int,
    steps: int,
    seconds: float,
    resumed_at: int,
) -> ResultFile:
    """Returns the figures of a finished search. alpha: the last one."""
    p = alpha.probabilities()
    expected: dict[Limit, float] = {limit: float(expected_cost(p, limit.cost)) for limit in additive(measured.limits)}
    c = architecture.complexity
    return ResultFile(
        architecture=architecture.name, seed=seed, top1=accuracy.top1, top5=accuracy.top5,
        loss=accuracy.loss if math.isfinite(accuracy.loss) else None, images=accuracy.images,
        limits=tuple(LimitFigures.of(outcome, expected.get(outcome.limit)) for outcome in measured.outcomes),
        met=measured.met, tries=len(measured.tries),
        params=c.params, macs=c.macs, log_probability=measured.derivation.log_probability, notes=tuple(notes),
        judgement=judged, steps=steps, seconds=seconds,
        resumed_at=resumed_at,
    )  # fmt: skip


def load_result(folder: Path) -> ResultFile | None:
    """Returns the result of the search in `folder`; None if it has not ended. Raises ConfigError for a damaged file."""
    path = folder / "result.json"
    if not path.exists():
        return None
    content = read_bytes(path, "the result of a search")
    try:
        return ResultFile.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ConfigError(
            str(path),
            f"is no result of a search ({f'{where}: ' if where else ''}{first['msg']})",
            remedy="delete it and resume the search, which writes it again",
        ) from None


def write_architecture(path: Path, architecture: Architecture, limits: Sequence[Limit]) -> None:
    """Writes architecture.json atomically, with a record for each limit."""
    write_atomically(path, architecture.to_json([limit.record(architecture.paths) for limit in limits]))
