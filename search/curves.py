"""Writes what TensorBoard shows of a search: curves, the network that would be derived now, pictures, and the figures
by which runs are compared.

Nothing here changes a search: random draws have a generator of their own, and the graph is drawn from a fresh network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from engine.config import config_text
from engine.curves.comparison import ACCURACY_CHARTS, Curve
from engine.curves.graph import graph_of
from engine.curves.metrics import MetricsLog, accuracy_curves
from engine.evaluation import Evaluation
from engine.seeding import generator
from search.config import SearchConfig
from search.learn.objective import expected_cost
from search.limits.limit import AdditiveLimit, Limit, TableSource
from search.picture import probabilities_picture
from search.plan import Plan
from search.result import ResultFile
from search.state import SAMPLED_COSTS, SearchState
from supernet.architecture import Architecture
from supernet.network import Network
from supernet.space import Layer, Space
from supernet.summary import as_markdown, table_of

LIMITS_UNIT = "(the limit's)"
CURVES = {
    "train/loss": Curve("nats", "Cross entropy of the sampled networks on training batches, label smoothing included."),
    "train/top1": Curve("%", "Accuracy of the sampled networks on training batches."),
    "train/top5": Curve("%", "Share of training images whose class is among the five likeliest."),
    "lr/weights": Curve("", "Learning rate of the weights."),
    "lr/arch": Curve("", "Learning rate of alpha; 0 in the warm-up."),
    "speed/images_per_second": Curve("images/s", "Speed of the training, without evaluations."),
    "arch/entropy": Curve("nats", "Entropy of alpha, the mean over the edges: 0 where one candidate has all."),
    "arch/relative_entropy": Curve("", "Entropy of alpha over the largest possible: 1 undecided, 0 decided."),
    "arch/ce": Curve("nats", "Cross entropy in architecture steps, on validation batches."),
    "arch/reward": Curve("", "REINFORCE: mean reward of the sampled networks."),
    "arch/top1": Curve("%", "REINFORCE: mean accuracy of the sampled networks on a validation batch."),
    "arch/gradient": Curve("", "REINFORCE: norm of the policy gradient."),
    "arch/effect": Curve("nats", "Regression: standard deviation of what candidates add to the loss."),
    "arch/error": Curve("nats", "Regression: standard error of the difference between two candidates of an edge."),
    "arch/noise": Curve(
        "nats", "Regression: standard deviation of a network's loss on one batch that no edge explains."
    ),
    "judge/reliability": Curve(
        "", "At the warm-up's end: Kendall's correlation of random networks' losses between two halves of the images."
    ),
    "arch/terms": Curve("", "What search.entropy and search.terms add to the loss of alpha."),
    "arch/ce_over_limits": Curve(
        "",
        "Norm of the cross entropy's share of alpha's gradient over that of the limits, the mean since the last point.",
    ),
    "skip/<stage>": Curve("", "Probability of `skip`, the mean over the edges of the stage that have it."),
    "expected/<limit>": Curve(LIMITS_UNIT, "Cost expected over the networks that alpha draws."),
    "target/<limit>": Curve(LIMITS_UNIT, "The bound that the expected cost is brought to, or kept below."),
    "pressure/<limit>": Curve(
        "nats",
        "By how much all projections so far (with regression the last one: alpha is made anew) have lowered the "
        "log-odds of a candidate that costs the whole bound beside a free one.",
    ),
    "derived/loss": Curve(
        "nats", "Validation loss of the network that would be derived now, with the supernet's weights."
    ),
    "derived/top1": Curve("%", "Validation accuracy of the network that would be derived now, likewise."),
    "derived/top5": Curve("%", "Its share of validation images whose class is among the five likeliest."),
    "derived/<limit>": Curve(LIMITS_UNIT, "Cost of the network that would be derived now."),
    "arch/probabilities": Curve(
        "", "softmax(alpha): a column per edge, a row per candidate; framed is what would be derived now."
    ),
    "arch/alpha": Curve("", "Distribution of all entries of alpha."),
    "probability/<edge>": Curve(
        "", "Distribution of the edge's path probabilities: all at 0 or 1 once it has decided."
    ),
    "sampled/<limit>": Curve(LIMITS_UNIT, "Distribution of the cost of 256 networks drawn from alpha."),
    "architecture": Curve("", "The network that would be derived now: each layer's op, shapes and costs."),
    "final/architecture": Curve("", "The derived network: each layer's op, shapes and costs."),
    "config": Curve("", "The config of the run as given."),
}
"""Every tag that a search writes, except those of engine.curves.comparison.FINAL, which retrainings have too.
`<limit>` is a limit's name, `<stage>` and `<edge>` those of a stage and a searchable edge."""

PROBABILITY_DIGITS = 4
"""The digits of the path probabilities in metrics.jsonl."""
SAMPLES = 256
"""The networks drawn for a distribution of costs. They take a second in the largest space and give an error of about 1
% of the range."""


def curves_of(space: Space, limits: Sequence[Limit]) -> dict[str, Curve]:
    """Returns CURVES with the names of this search's limits, stages and edges, and their units."""
    names: dict[str, dict[str, str | None]] = {
        "<limit>": {limit.name: limit.unit for limit in limits},
        "<stage>": dict.fromkeys(edge.stage for edge in space.searchable),
        "<edge>": dict.fromkeys(edge.name for edge in space.searchable),
    }
    named = {}
    for tag, curve in CURVES.items():
        place = next((place for place in names if place in tag), None)
        for name, unit in names[place].items() if place else [("", None)]:
            named[tag.replace(place or "", name)] = Curve(unit or curve.unit, curve.meaning)
    return named


def architecture_scalars(state: SearchState, limits: Sequence[AdditiveLimit]) -> dict[str, float]:
    """Returns the curves of alpha by their tags: its entropy and, for each limit, the expected cost, the target and,
    if alpha is projected, the pressure."""
    p = state.alpha.probabilities()
    values = {"arch/entropy": float(state.alpha.entropy())}
    for limit in limits:
        values[f"expected/{limit.name}"] = float(expected_cost(p, limit.cost))
        values[f"target/{limit.name}"] = limit.bound
    if state.pressures:
        pressures = zip(limits, state.pressures, strict=True)
        values |= {f"pressure/{limit.name}": pressure for limit, pressure in pressures}
    return values


def log_begin(log: MetricsLog, plan: Plan, out: Path) -> None:
    """Writes what stays the same during a search: its config, the charts of CUSTOM SCALARS, its row of HPARAMS."""
    log.text("config", f"```yaml\n{config_text(plan.config)}```")
    log.charts(charts(plan.additive, projected=plan.config.search.projects))
    log.hyperparameters(str(out), hyperparameters(plan.config, plan.additive))


def charts(limits: Sequence[AdditiveLimit], *, projected: bool) -> dict[str, Mapping[str, tuple[str, ...]]]:
    """Returns the charts of a search. Each limit has one of expected cost, target and derived cost, and if alpha is
    projected a second one of its pressure.

    TensorBoard treats the tags of a chart as patterns and matches them at the beginning of a tag.
    """
    pairs: dict[str, tuple[str, ...]] = {}
    for limit in limits:
        pattern = "".join(c if c.isalnum() or c in "_/" else f"\\{c}" for c in limit.name)
        pairs[f"{limit.name} [{limit.unit}]: expected, target, derived"] = (f"(expected|target|derived)/{pattern}$",)
        if projected:
            pairs[f"{limit.name}: pressure"] = (f"pressure/{pattern}$",)
    return {
        "limits": pairs,
        "accuracy": ACCURACY_CHARTS,
        "alpha": {
            "undecided (1) to decided (0)": ("arch/relative_entropy$",),
            "probability of skip by stage": ("skip/",),
        },
    }


def hyperparameters(config: SearchConfig, limits: Sequence[AdditiveLimit]) -> dict[str, float | str]:
    """Returns the values of those engine.curves.comparison.HYPERPARAMETERS that a search has."""
    search = config.search
    words = [f"{limit.name} {_asked(limit)}" for limit in limits]
    values: dict[str, float | str] = {
        "kind": "search", "data": config.data.name, "limits": ", ".join(words), "arch_update": search.arch_update,
        "loss": search.resolved_reinforce.limits if search.arch_update == "reinforce" else search.resolved_loss.form,
        "arch_lr": search.arch_lr, "epochs": search.epochs, "warmup_epochs": search.warmup_epochs,
        "batch_size": search.batch_size, "lr": search.resolved_lr,
        "weight_decay": search.resolved_weight_decay, "optimizer": search.optimizer,
        "label_smoothing": search.label_smoothing, "seed": config.run.seed,
    }  # fmt: skip
    if limits:
        values["bound"] = limits[0].bound
    timed = first_on_latency(limits)
    if timed is not None and limits[timed].sources:
        values["device"] = ", ".join(source.table.device.name for source in limits[timed].sources)
    return values


def _asked(limit: AdditiveLimit) -> str:
    return f"{limit.kind} {limit.bound:.4g} {limit.unit}"


def first_on_latency(limits: Sequence[AdditiveLimit]) -> int | None:
    """Returns the index of the first limit on latency; None if there is none."""
    return next((i for i, limit in enumerate(limits) if limit.metric == "latency"), None)


def log_evaluation(
    log: MetricsLog, step: int, state: SearchState, plan: Plan, architecture: Architecture, scored: Evaluation
) -> None:
    """Writes the network that would be derived now, with its accuracy and costs, and alpha (log_alpha)."""
    space, limits = plan.space, plan.additive
    values = accuracy_curves("derived", (scored.loss, scored.top1, scored.top5), space.config.classes)
    values |= {f"derived/{limit.name}": limit.cost_of(architecture.paths) for limit in plan.limits}
    log.scalars(step, values)
    log.text("architecture", architecture_text(architecture, limits), step)
    log_alpha(log, step, state, plan, architecture.paths)


def log_alpha(
    log: MetricsLog, step: int, state: SearchState, plan: Plan, derived: tuple[int, ...] | None = None
) -> None:
    """Writes alpha as a picture, in which `derived` is framed, and as distributions; and the costs of networks drawn
    from it."""
    space, limits = plan.space, plan.additive
    alpha = state.alpha
    log.image(step, "arch/probabilities", probabilities_picture(alpha.probabilities().numpy(), space, derived, limits))
    named = alpha.named_probabilities()
    each = {f"probability/{edge}/{name}": p for edge, row in named.items() for name, p in row.items()}
    log.numbers(step, {tag: round(p, PROBABILITY_DIGITS) for tag, p in each.items()})
    log.histogram(step, "arch/alpha", alpha.values[alpha.mask].numpy())
    for edge, row in named.items():
        log.histogram(step, f"probability/{edge}", np.array(list(row.values())), bins=20)
    random = generator(plan.config.run.seed, SAMPLED_COSTS, step)
    sampled = [alpha.sample_paths(random) for _ in range(SAMPLES)]
    for limit in limits:
        log.histogram(step, f"sampled/{limit.name}", np.array([limit.cost.of(paths) for paths in sampled]))


def log_end(
    log: MetricsLog, step: int, architecture: Architecture, limits: Sequence[AdditiveLimit], figures: ResultFile
) -> None:
    """Writes the derived network as text and as a graph, and the final figures of the search."""
    log.text("final/architecture", architecture_text(architecture, limits), step)
    network = Network(architecture)
    config = architecture.space.config
    images = torch.zeros(1, config.input_channels, config.input_size, config.input_size)
    log.graph(graph_of(network, images, network.reading_names))
    values = {"final/top1": figures.top1, "final/macs": figures.macs, "final/params": figures.params}
    if figures.judgement:
        values |= {"final/rank": figures.judgement.rank, "final/tau": figures.judgement.tau}
    timed = first_on_latency(limits)
    if timed is not None:
        values["final/latency"] = figures.limits[timed].predicted
        if measured := figures.limits[timed].measured:
            values["final/measured"] = measured.median_ms
    log.final(step, values)


def architecture_text(architecture: Architecture, limits: Sequence[AdditiveLimit]) -> str:
    """Returns Markdown: each layer with its costs, and each limit with this network's cost."""
    lines = [
        f"- {limit.name}: {limit.cost.of(architecture.paths):.4g} {limit.unit}, asked {_asked(limit)}"
        for limit in limits
    ]
    return "\n".join((as_markdown(table_of(architecture, *layer_costs(architecture, limits))), "", *lines))


def layer_costs(
    architecture: Architecture, limits: Sequence[AdditiveLimit]
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Returns the cost of each layer in each table of the limits, and the constant of each table: columns of the
    summary."""
    columns: dict[str, list[float]] = {}
    constants: dict[str, float] = {}
    for limit in limits:
        for source in limit.sources:
            table = f", {source.path.stem}" if len(limit.sources) > 1 else ""
            heading = f"{limit.name} [{limit.unit}]{table}"
            price, constants[heading] = _price(limit, source)
            columns[heading] = [price(layer, place) for place, layer in architecture.places]
    return columns, constants


def _price(limit: AdditiveLimit, source: TableSource) -> tuple[Callable[[Layer, str], float], float]:
    """Returns a function for the cost of a layer in a table, and the table's constant for a network."""
    table = source.table
    if limit.metric == "latency":
        return table.price, table.constant_ms
    return table.column_price(limit.metric, str(source.path)), table.columns[limit.metric].constant
