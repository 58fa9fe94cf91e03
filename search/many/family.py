"""Derives architectures for several bounds from one search, each with its accuracy, from the run's newest
checkpoint."""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine.data import ImageSet
from engine.device import prepare_device
from engine.errors import CheckpointError, ConfigError, one_line
from engine.evaluation import Evaluation
from engine.files import in_home, write_atomically
from engine.percent import Percent
from engine.progress import Report, reported, silent
from engine.quantities import quantity
from engine.run_config import RunConfig
from engine.runs.checkpoints import Checkpoints, misfit
from engine.runs.folder import TABLES
from latency.table import LatencyTable
from search.config import COMPUTED, LimitConfig, SearchConfig, in_full
from search.derive.derivation import Derivation, InfeasibleError, derive, smallest
from search.given import as_its_file
from search.learn.regression import Evidence, preferences, restored
from search.limits.limit import Limit, additive
from search.limits.resolve import Resolved, resolve, resolve_bound
from search.many.pareto import Panel, Point, draw_fronts, on_front
from search.opening import resolved_run
from search.program import UnfinishedError
from search.result import load_result, write_architecture
from search.scoring import open_parts, score
from supernet.alpha import Alpha
from supernet.architecture import Architecture
from supernet.space import Space
from supernet.supernet import Supernet

log = logging.getLogger("search")

FORMAT = "proxylessnas/pareto@1"
MOST_BOUNDS = 1000
"""The most bounds of one call. Each costs a derivation, and a scoring unless another bound gives the same network."""
MOST_DIGITS = 30
_NUMBER = re.compile(r"[0-9]+(\.[0-9]*)?([eE][-+]?[0-9]+)?")
_WITH_LETTER = re.compile(r"(?<![\w+-])\d{1,20}(\.\d{1,20})?\s*[kMG](?![a-wyzA-Z])")  # 100M..300Mx5 has two of them
_RANGE = re.compile(r"(?P<low>[^.x]+(\.[^.x]+)?)\.\.(?P<high>[^x]+)x(?P<count>[0-9]+)")


@dataclass(frozen=True)
class FamilyMember:
    """One derived architecture and its file."""

    asked: str | None
    """The bound as it was written; None for the run's own."""
    path: Path
    architecture: Architecture
    derivation: Derivation
    limits: tuple[Limit, ...]
    accuracy: Evaluation | None = None
    """Its accuracy with the supernet's weights, on the validation part; None if it was not scored."""
    on_front: bool | None = None
    """Whether no other member has at least its accuracy at a lower cost, or a higher accuracy at no more cost; the cost
    is that of the first limit. None if it was not scored."""

    @property
    def predicted(self) -> list[dict[str, object]]:
        """A record for each limit, as in architecture.json: value, bound, unit, table."""
        return [limit.record(self.architecture.paths) for limit in self.limits]


@dataclass(frozen=True)
class Family:
    """The architectures derived from one checkpoint, in the order of their bounds; iterating over a family gives its
    members."""

    step: int
    """The step of the checkpoint."""
    members: tuple[FamilyMember, ...]
    refused: tuple[str, ...] = ()
    """A line for each bound that no architecture meets: the bound, and the smallest cost that can be reached."""

    def __iter__(self) -> Iterator[FamilyMember]:
        return iter(self.members)

    def __len__(self) -> int:
        return len(self.members)


def derive_family(
    run: Path,
    bounds: Sequence[str] = (),
    method: str | None = None,
    *,
    table: Path | LatencyTable | None = None,
    scored: bool = True,
    device: str | None = None,
    report: Report = silent,
    allow_modules: Collection[str] = (),
) -> Family:
    """Derives architectures from a search's newest good checkpoint: one at the run's own bound, or one at each of
    `bounds` of its first limit.

    bounds: numbers in the metric's unit, `N%` of the reachable range, or LOW..HIGHxCOUNT for COUNT evenly spaced ones.
    table: one device's latency table in place of all latency limits, so that each device gets a network of its own from
    one supernet; it need not be among the run's, and needs `bounds`. If it is a LatencyTable object, a copy is
    written into the run folder, named after the device.
    scored: whether to compute the accuracy of each network, which needs the run's data. device: the device on which
    they are scored, in place of run.device; with cpu, amp is also off. The search may still be running: its own files
    are only read. report: called with what is being done. allow_modules: the user's modules that the run's config.yaml,
    which may come from elsewhere, may import and call.

    Writes architecture-<bound>.json into the run folder (without bounds architecture.json, or architecture-derived.json
    if the search has ended and written its own), and for scored bounds pareto.json and pareto.png; with a table, the
    names begin with architecture-<table> and pareto-<table>. A bound that no architecture meets goes to Family.refused,
    and the others are derived all the same. Raises ConfigError or CheckpointError.
    """
    run = in_home(run)
    resolved = resolved_run(run, allow_modules)
    table_path = None if table is None else _path_of(table, run)
    if table is not None and table_path is not None:
        if not bounds:
            raise ConfigError(
                f"--table {table_path}", "needs --at, such as --at 50%", remedy="the run's bound is not of this table"
            )
        resolved = _on_table(resolved, table, table_path, run / "config.yaml")
    for note in resolved.notes:
        log.warning(str(note))
    if bounds and not resolved.additive:
        raise ConfigError(
            "--at", "the run's only limit has been applied to its space", remedy="search again with another bound"
        )
    texts: list[str | None] = [None]
    if bounds:
        first = resolved.additive[0]
        texts = [*written_bounds(bounds, first.metric, first.unit)]
    scoring = Scoring.prepare(_on_device(resolved.config, device)) if scored else None
    step, state, wanted = newest_state(run, resolved.space, method or resolved.config.search.derive)
    scorer = Scorer.of(resolved.space, state, scoring) if scoring else None
    members: list[FamilyMember] = []
    refused: list[str] = []
    for i, text in enumerate(texts, 1):
        try:
            what = f"deriving {i} of {len(texts)}"
            report(what, 0, 0)
            name = f"-{table_path.stem}" if table_path else ""
            members.append(_member(run, name, text, resolved, wanted, step, method, scorer, report, what))
        except (ConfigError, InfeasibleError, UnfinishedError) as error:
            refused.append(str(error))
    if scorer and members:
        members = _with_front(_with_scores(members, scorer, report))
    family = Family(step, tuple(members), tuple(refused))
    if scoring and bounds and members:
        pareto = f"pareto-{table_path.stem}" if table_path else "pareto"
        write_atomically(run / f"{pareto}.json", json.dumps(pareto_record(family), indent=2) + "\n")
        draw_fronts(run / f"{pareto}.png", [_panel(family, run.name)])
    return family


def _path_of(table: Path | LatencyTable, run: Path) -> Path:
    """Returns the path of a table; if it is an object, the path of its copy in the run folder."""
    if not isinstance(table, LatencyTable):
        return in_home(table)
    words = "".join(c if c.isalnum() else " " for c in table.device.name.lower()).split()
    return run / TABLES / f"{'-'.join(words) or 'table'}.yaml"


def written_bounds(texts: Sequence[str], metric: str, unit: str) -> list[str]:
    """Returns each bound of `texts` once, see expand_bounds, with k, M and G written out if the metric is counted."""
    if metric in COMPUTED:
        texts = [_WITH_LETTER.sub(lambda number: in_full(number.group()), text) for text in texts]
    return expand_bounds(texts, unit)


def expand_bounds(texts: Sequence[str], unit: str) -> list[str]:
    """Returns each bound once, with ranges LOW..HIGHxCOUNT replaced by their bounds.

    Raises ConfigError if a text is no number, percentage or range from a lower to a higher end, or if there are more
    than MOST_BOUNDS.
    """
    expanded: dict[str, str] = {}
    for text in texts:
        for bound in _written_out(text.strip(), unit):
            expanded[_slug(bound)] = bound
            if len(expanded) > MOST_BOUNDS:
                raise ConfigError(
                    "--at", f"names more than {MOST_BOUNDS} bounds", remedy="give fewer, each is derived by itself"
                )
    return list(expanded.values())


def _written_out(text: str, unit: str) -> list[str]:
    """Returns one bound unchanged, or the bounds of a range. Raises ConfigError if the text is neither."""
    span = _RANGE.fullmatch(text.replace(" ", "")) if len(text) <= 3 * MOST_DIGITS else None
    ends = [span["low"], span["high"]] if span else [text]
    if not all(len(end) <= MOST_DIGITS and _is_bound(end) for end in ends):
        raise ConfigError(
            "--at",
            f"got '{one_line(text, 100)}'",
            f"a number in {unit}, a percentage from 0% to 100% such as 50%, or a range such as 10%..90%x9",
        )
    if span is None:
        return [text]
    if ends[0].endswith("%") != ends[1].endswith("%"):
        raise ConfigError("--at", f"got '{text}'", f"both ends of a range in {unit}, or both in %")
    low, high = (Percent(end).number if Percent.matches(end) else float(end) for end in ends)
    if low >= high:
        raise ConfigError("--at", f"got '{text}'", "a range's lower end first, such as 10%..90%x9")
    count = int(span["count"])
    if not 2 <= count <= MOST_BOUNDS:
        raise ConfigError("--at", f"got '{text}'", f"a count of 2 to {MOST_BOUNDS} after the x")
    sign = "%" if ends[0].endswith("%") else ""
    return [f"{value:.10g}{sign}" for value in np.linspace(low, high, count)]


def _is_bound(text: str) -> bool:
    return Percent.matches(text) or (_NUMBER.fullmatch(text) is not None and math.isfinite(float(text)))


def newest_state(run: Path, space: Space, method: str) -> tuple[int, dict[str, Any], Alpha]:
    """Returns (step, the search's part of the newest checkpoint, the alpha whose probability a derivation by `method`
    maximises). All are of one step, even if the run saves a later one meanwhile."""
    newest = Checkpoints(run / "checkpoints").newest()
    if newest is None:
        raise CheckpointError(
            str(run), "no checkpoint yet", remedy="wait for the first one (run.checkpoint_every steps)"
        )
    step, checkpoint = newest
    search = checkpoint.get("search")
    alpha = search.get("alpha") if isinstance(search, dict) else None
    if not isinstance(search, dict) or not isinstance(alpha, Tensor) or alpha.shape != space.mask.shape:
        raise CheckpointError(
            str(run), "its checkpoint is not of a search in this space", remedy="expected a run of proxyless-nas search"
        )
    try:
        blank = None if search.get("evidence") is None else Evidence.none(*alpha.shape)
        evidence = restored(search.get("evidence"), blank)
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{run}: its checkpoint does not fit", misfit(error)) from error
    return step, search, preferences(Alpha.of_space(space, alpha), evidence, method)


def _on_table(resolved: Resolved, given: Path | LatencyTable, table: Path, source: Path) -> Resolved:
    """Returns the run's settings with one limit on this table in place of all its limits on latency. The bound of that
    limit is a placeholder, which the caller replaces.

    If the table is one of the run's, it is compared with the space as in the run, else as tables of external devices
    are. given: the table as the caller gave it; an object is saved at `table`. source: the run's file, for messages.
    """
    objects = {table: as_its_file(given)} if isinstance(given, LatencyTable) else {}
    own = [limit for limit in resolved.config.limits if limit.metric == "latency"]
    of_run = next((limit for limit in own if limit.table == table), None)
    like = (of_run or own[0]) if own else LimitConfig(metric="latency", table=table, at="50%")
    measure = of_run.measure if of_run else resolved.config.measure.model_copy(update={"device": "external"})
    # keys about the run's own tables are dropped; whether the bound is an `at` or a `below` is kept
    plain = {"table": table, "table_sha256": None, "tables": (), "tables_sha256": (), "combine": None, "weights": ()}
    bound = {"at": "50%"} if like.below is None else {"below": "50%"}
    entry = like.model_copy(update=plain | {"measure": measure, "at": None, "below": None} | bound)
    others = tuple(limit for limit in resolved.config.limits if limit.metric != "latency")
    on_table = resolve(resolved.config.model_copy(update={"limits": (entry, *others)}), source, tables=objects)
    for path, copy in objects.items():
        copy.save(path)
    return on_table


def _member(
    run: Path,
    suffix: str,
    text: str | None,
    resolved: Resolved,
    wanted: Alpha,
    step: int,
    method: str | None,
    scorer: Scorer | None,
    report: Report,
    what: str,
) -> FamilyMember:
    """Derives an architecture at one bound and writes its file. Raises ConfigError or InfeasibleError if no
    architecture meets it.

    suffix: what follows `architecture` in the file's name. text: the bound as it was written, None for the run's own.
    wanted: the alpha whose probability is maximised. report: called during the scoring, as a part of `what`.
    """
    space, limits = resolved.space, resolved.limits
    if text is not None:
        asked = resolved.additive[0]
        bound = resolve_bound(text if text.endswith("%") else float(text), asked.cost, "--at", asked.unit)
        limits = tuple(replace(asked, bound=bound) if limit is asked else limit for limit in limits)
        suffix = f"{suffix}-{_slug(text)}"
    elif load_result(run) is not None:
        suffix = "-derived"  # the search itself has written architecture.json, after a timing if it could time
    sums = additive(limits)
    try:
        s = resolved.config.search
        loss = (lambda paths: scorer.score(paths).loss) if scorer else None
        derivation = derive(wanted, sums, method or s.derive, s.derive_among, loss, report, what)
        if loss is None and s.derive_among > 1 and (method or s.derive) == "constrained":
            note = f"the likeliest network: without scores, search.derive_among: {s.derive_among} cannot choose"
            derivation = replace(derivation, notes=(*derivation.notes, note))
    except InfeasibleError:
        if text is None:
            raise
        first, *others = sums
        least = smallest(first, others)
        raise InfeasibleError(
            f"--at {text}",
            f"no architecture with {first.metric} up to {quantity(first.bound, first.unit, 6)} meets the other limits",
            remedy=f"the smallest that does has {quantity(least, first.unit, 6)}",
        ) from None
    architecture = Architecture(space, derivation.paths, f"{run.name}{suffix}-step{step}")
    path = run / f"architecture{suffix}.json"
    write_architecture(path, architecture, limits)
    return FamilyMember(text, path, architecture, derivation, limits)


def _on_device(config: SearchConfig, device: str | None) -> SearchConfig:
    """Returns the config for scoring on another device. On a CPU amp is off, since bf16 makes most CPUs slower."""
    if device is None or device == config.run.device:
        return config
    run = config.run.model_dump() | {"device": device} | ({"amp": "none"} if device == "cpu" else {})
    return config.model_copy(update={"run": RunConfig.model_validate(run)})


@dataclass(frozen=True)
class Scoring:
    """The config, device and images with which the derived networks are scored."""

    config: SearchConfig
    device: torch.device
    training: ImageSet
    validation: ImageSet

    @classmethod
    def prepare(cls, config: SearchConfig) -> Scoring:
        """Opens the images and prepares the device. Raises ConfigError if one of them is absent."""
        try:
            return cls(config, prepare_device(config.run), *open_parts(config))
        except ConfigError as error:
            options = "here: --device cpu, or --no-score to derive without the data"
            error.remedy = "; ".join(filter(None, [error.remedy, options]))
            raise


@dataclass(frozen=True)
class Scorer:
    """Scores networks with the weights of the checkpoint's supernet, each network once, however many bounds give it."""

    net: Supernet
    scoring: Scoring
    scores: dict[tuple[int, ...], Evaluation] = field(default_factory=dict)

    @classmethod
    def of(cls, space: Space, state: dict[str, Any], scoring: Scoring) -> Scorer:
        """Loads the supernet from the search's part of a checkpoint. Raises CheckpointError if it does not fit."""
        net = Supernet(space)
        try:
            net.load_state_dict(state["net"])
        except (KeyError, TypeError, RuntimeError) as error:
            raise CheckpointError("the checkpoint does not fit this search's config", misfit(error)) from error
        return cls(net.to(scoring.device), scoring)

    def score(self, paths: tuple[int, ...]) -> Evaluation:
        """Returns the accuracy of a network."""
        if paths not in self.scores:
            s = self.scoring
            architecture = Architecture(self.net.space, paths)
            self.scores[paths] = score(self.net, architecture, s.config, s.training, s.validation, s.device)
        return self.scores[paths]


def _with_scores(members: Sequence[FamilyMember], scorer: Scorer, report: Report) -> list[FamilyMember]:
    """Returns the members with their accuracies; a network that several of them have is scored once."""
    distinct = dict.fromkeys(member.architecture.paths for member in members)
    for paths in reported(distinct, "scoring the derived networks", len(distinct), report):
        scorer.score(paths)
    return [replace(member, accuracy=scorer.score(member.architecture.paths)) for member in members]


def _points(members: Sequence[FamilyMember]) -> list[Point]:
    """Returns a point for each scored member: its cost by the first limit, 0 without an additive limit, and its
    accuracy."""
    points = []
    for m in members:
        if m.accuracy is not None:
            first = next(iter(additive(m.limits)), None)
            cost = first.cost.of(m.architecture.paths) if first else 0.0
            points.append(Point(m.asked or m.path.stem, cost, m.accuracy.top1))
    return points


def _with_front(members: Sequence[FamilyMember]) -> list[FamilyMember]:
    kept = on_front(_points(members))
    return [replace(member, on_front=k) for member, k in zip(members, kept, strict=True)]


def _panel(family: Family, run: str) -> Panel:
    """Returns the panel of a family. Members with the same network share a point, which is labelled with all their
    bounds."""
    first = family.members[0].limits[0]  # bounds were given, so it is the one on a sum
    labels: dict[tuple[int, ...], list[str]] = {}
    for member in family:
        labels.setdefault(member.architecture.paths, []).append(member.asked or "")
    points = dict(zip((m.architecture.paths for m in family), _points(family.members), strict=True))
    merged = tuple(replace(point, label=", ".join(labels[paths])) for paths, point in points.items())
    return Panel(f"{run}, step {family.step}", f"predicted {first.metric} [{first.unit}]", merged)


def pareto_record(family: Family) -> dict[str, object]:
    """Returns the content of pareto.json. A member's `predicted` holds, for each limit, its value, bound, unit and
    table."""
    members = []
    for m in family:
        c, a = m.architecture.complexity, m.accuracy
        members.append(
            {
                "asked": m.asked,
                "file": m.path.name,
                "predicted": m.predicted,
                "complexity": {"params": c.params, "macs": c.macs},
                "top1": a.top1 if a else None,
                "top5": a.top5 if a else None,
                "loss": a.loss if a and math.isfinite(a.loss) else None,
                "images": a.images if a else None,
                "log_probability": m.derivation.log_probability,
                "on_front": m.on_front,
                "notes": list(m.derivation.notes),
                "paths": list(m.architecture.names),
            }
        )
    return {"format": FORMAT, "step": family.step, "members": members, "refused": list(family.refused)}


def _slug(bound: str) -> str:
    return bound.strip().replace(" ", "").replace("%", "percent")
