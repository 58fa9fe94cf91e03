"""Methods that choose a network under a limit on MACs, judged where the true accuracies of all networks are known.

For each target and seed: the product's default search, a search by another rule from the same warm-up, random networks
of which the supernet's loss chooses (the control), and evolution on the supernet. Their costs are counted in images
through a network: forward 1, backward 2.
"""

import json
import logging
import shutil
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import kendalltau

from bands import BAND, Band
from engine.device import autocast
from engine.distributed import ALONE
from engine.files import write_atomically
from engine.progress import Progress
from engine.runs.checkpoints import Checkpoints
from latency.device import made_on
from search.derive.derivation import constrained
from search.judge import supernet_losses
from search.loop import Search
from search.many.family import newest_state
from search.plan import Plan

POPULATION, PARENTS, MUTATION = 20, 5, 0.1
"""The evolution: networks of a generation, its best ones that the next is made of, and the chance that an edge of a
child is drawn anew (once-for-all, arXiv 1908.09791, Sec. 3.3, with a smaller population)."""

Paths = tuple[int, ...]
log = logging.getLogger("benchmark")


@dataclass(frozen=True)
class Known:
    """The networks with a known accuracy."""

    networks: list[Paths]
    accuracy: np.ndarray
    macs: np.ndarray

    def band(self, target: float) -> Band:
        """Returns the networks of [BAND target, target] MACs."""
        return Band.of(target, self.macs, self.accuracy)

    def judged(self, band: Band, paths: Paths) -> dict[str, float]:
        """percentile and gap of one network of the band."""
        index = self.networks.index(paths)
        accuracy = float(self.accuracy[index])
        return {"percentile": band.percentile(index, accuracy), "gap": band.gap(accuracy)}


@dataclass(frozen=True)
class Bench:
    """What the searches of one seed share. What is done is kept in `folder`; a second call goes on."""

    known: Known
    seed: int
    folder: Path
    targets: Sequence[float]
    """In `unit`."""
    plan: Callable[[float, Sequence[str]], Plan]
    """Plans the search for a target, with further overrides of its config."""
    unit: float = 1e6
    """In MACs."""
    controls: tuple[int, ...] = (10, 30, 100)
    """The numbers of random networks of which the supernet's loss chooses."""
    control_images: int = 2000
    """Images by which it does."""
    learners: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """The searches that differ from the default in how alpha learns: overrides of the config. Alpha alone chooses."""
    derivations: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """The searches that differ from the default in the derivation alone, with whose alpha they end."""

    def band(self, target: float) -> Band:
        """Returns the networks just below a target."""
        return self.known.band(self.unit * target)


def checkpoint_of(run: Path) -> tuple[int, dict[str, Any]]:
    """Returns the step and the content of the newest checkpoint of a search that has one."""
    newest = Checkpoints(run / "checkpoints").newest()
    assert newest is not None  # each run here ends with one
    return newest


def begun(out: Path) -> int | None:
    """Returns the step of the newest checkpoint of an earlier call, or None: then `out` is empty."""
    newest = Checkpoints(out / "checkpoints").newest()
    if newest is None:
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        return None
    return newest[0]


def warm_up(plan: Plan, out: Path) -> None:
    """Trains on to the end of the warm-up, of which a checkpoint is left in `out`."""
    step = begun(out)
    if step is not None and step >= plan.warmup_steps:
        return
    search = Search(plan, out, step is not None, ALONE)
    try:
        with Progress(plan.warmup_steps, search.state.step, "warm-up") as progress:
            while search.state.step < plan.warmup_steps:
                search.step(progress)
            search.save()
    finally:
        search.close()


def searched(plan: Plan, before: Path, out: Path, change: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Searches on from the newest checkpoint of `before`, after `change` has been made to its state; returns what is
    kept of it, by an earlier call, too."""
    record = out / "record.json"
    if record.exists():
        found: dict[str, Any] = json.loads(record.read_text())
        return found
    if begun(out) is None:
        step, state = checkpoint_of(before)
        change(state["search"])
        Checkpoints(out / "checkpoints").save(step, state)
    result = Search(plan, out, True, ALONE).run()
    judged = result.judged
    found = {"paths": list(result.architecture.paths), "cost": cost_of(plan)}
    if judged:
        found |= {"tau": judged.tau, "reliability": judged.reliability, "rank": judged.rank}
    write_atomically(record, json.dumps(found) + "\n")
    return found


def cost_of(plan: Plan) -> dict[str, int]:
    """Returns the images that pass through a network, forward counted once and backward twice: those that train the
    weights, and those that alpha learns from."""
    s = plan.config.search
    batch = s.batch_size
    steps = plan.config.search.epochs * plan.steps_per_epoch // s.arch_every
    if s.arch_update == "regression":
        alpha = (steps + plan.final_steps) * batch * s.resolved_regression.samples
    elif s.arch_update == "reinforce":
        alpha = steps * batch * s.resolved_reinforce.samples
    else:
        # forward, backward through the activations alone, and the other candidate of each pair
        alpha = steps * batch * 4
    return {"weights": plan.steps * batch * 3, "alpha": alpha}


@dataclass(frozen=True)
class TrainedSupernet:
    """The supernet of a finished search of the default, with its weights."""

    plan: Plan
    search: Search

    @classmethod
    def of(cls, plan: Plan, run: Path) -> "TrainedSupernet":
        return cls(plan, Search(plan, run, True, ALONE))

    def losses(self, networks: Sequence[Paths], images: int) -> np.ndarray:
        """(networks,): validation losses."""
        plan = self.plan
        losses, _ = supernet_losses(
            self.search.state.net, networks, plan.config, plan.validation, plan.device,
            lambda: autocast(plan.config.run, plan.device), images=images,
        )  # fmt: skip
        return np.asarray(losses.mean(axis=1))


def evolved(supernet: TrainedSupernet, bench: Bench, band: Band, rng: np.random.Generator) -> Paths:
    """The best network of an evolution of as many evaluations as the largest control has."""
    networks, images = bench.known.networks, bench.control_images
    known = {networks[i] for i in band.indices}
    candidates = supernet.plan.space.mask.sum(axis=1)
    generation = [networks[i] for i in rng.choice(band.indices, POPULATION, replace=False)]
    seen = dict(zip(generation, supernet.losses(generation, images), strict=True))
    for _ in range(bench.controls[-1] // POPULATION - 1):
        parents = sorted(seen, key=lambda paths: float(seen[paths]))[:PARENTS]
        children: dict[Paths, None] = {}
        for attempt in range(100_000):
            one, other = (np.array(parents[i]) for i in rng.integers(len(parents), size=2))
            child = np.where(rng.random(len(one)) < 0.5, one, other) if attempt % 2 else one
            child = np.where(rng.random(len(one)) < MUTATION, rng.integers(candidates), child)
            paths = tuple(child.tolist())
            if paths in known and paths not in seen:
                children[paths] = None
                if len(children) == POPULATION:
                    break
        if not children:
            break
        seen |= dict(zip(children, supernet.losses(list(children), images), strict=True))
    return min(seen, key=lambda paths: float(seen[paths]))


def supernet_rows(supernet: TrainedSupernet, bench: Bench, target: float, methods: Sequence[str]) -> dict[str, Any]:
    """Returns, for one band, a row for each control and for the evolution, and Kendall's tau with the truth."""
    known, band, images = bench.known, bench.band(target), bench.control_images
    rng = np.random.default_rng([bench.seed, int(target)])
    drawn = rng.choice(band.indices, min(bench.controls[-1], len(band.indices)), replace=False)
    found: dict[str, Any] = {}
    if "control" in methods:
        losses = supernet.losses([known.networks[i] for i in drawn], images)
        found["kendall"] = float(kendalltau(-losses, known.accuracy[drawn]).statistic)
        order = np.argsort(losses)
        ranks = Band(band.target, drawn, known.accuracy[drawn])
        for k in bench.controls:
            # the expectation over which k of the drawn ones are looked at; judged in the whole band
            chances = ranks.chances(len(order), k)
            rows = [known.judged(band, known.networks[drawn[i]]) for i in order]
            found[f"control_{k}"] = {
                name: float(chances @ np.array([row[name] for row in rows])) for name in ("percentile", "gap")
            } | {"cost": min(k, len(drawn)) * images}
    if "evolution" in methods:
        chosen = evolved(supernet, bench, band, rng)
        found["evolution"] = known.judged(band, chosen) | {"cost": bench.controls[-1] * images}
    return found


def again(state: dict[str, Any]) -> None:
    """Puts a finished search of the default back to its last weights step."""
    state["arch_steps"] -= state["final_steps"]
    state["final_steps"] = 0


def forgotten(state: dict[str, Any]) -> None:
    """Takes the default's evaluations away from a search that learns by another rule."""
    state["evidence"] = None


def rows_of(bench: Bench, methods: Sequence[str]) -> list[dict[str, Any]]:
    """A row for each method and target of one seed."""
    folder = bench.folder
    plans = {target: bench.plan(target, ()) for target in bench.targets}
    first = plans[bench.targets[0]]
    warm_up(first, folder / "warm")
    rows: list[dict[str, Any]] = []

    def add(method: str, target: float, cost: int, paths: Sequence[int], more: Mapping[str, Any] | None = None) -> None:
        row = {"method": method, "target": target, "seed": bench.seed, "cost": cost}
        rows.append(row | bench.known.judged(bench.band(target), tuple(paths)) | dict(more or {}))
        log.info("%s", rows[-1])

    for target, plan in plans.items():
        # the weights of the default do not depend on the target, so the searches after the first only learn alpha
        before = folder / "warm" if plan is first else folder / f"default-{bench.targets[0]:g}"
        kept = searched(plan, before, folder / f"default-{target:g}", again)
        judgement: dict[str, Any] = {name: kept[name] for name in ("tau", "reliability", "rank") if name in kept}
        add("default", target, kept["cost"]["alpha"], kept["paths"], judgement)
        for name in (name for name in bench.derivations if name in methods):
            other = bench.plan(target, bench.derivations[name])
            kept = searched(other, folder / f"default-{target:g}", folder / f"{name}-{target:g}", lambda state: None)
            looked = other.config.search.derive_among * len(other.validation)
            add(name, target, kept["cost"]["alpha"] + looked, kept["paths"])
    looking = sorted({"control", "evolution"} & set(methods))
    if looking:
        rows += _looked(bench, TrainedSupernet.of(first, folder / f"default-{bench.targets[0]:g}"), looking)
    for name, target in ((n, t) for n in bench.learners if n in methods for t in bench.targets):
        plan = bench.plan(target, bench.learners[name])
        kept = searched(plan, folder / "warm", folder / f"{name}-{target:g}", forgotten)
        _, _, alpha = newest_state(folder / f"{name}-{target:g}", plan.space, "constrained")
        likeliest = constrained(alpha, plan.additive).paths
        add(name, target, kept["cost"]["alpha"], likeliest)
    return rows


def _looked(bench: Bench, supernet: TrainedSupernet, methods: Sequence[str]) -> list[dict[str, Any]]:
    """Returns the rows of what the supernet's loss chooses, and closes the supernet."""
    rows: list[dict[str, Any]] = []
    for target in bench.targets:
        record = bench.folder / f"supernet-{target:g}-{'-'.join(methods)}-{bench.control_images}.json"
        if not record.exists():
            write_atomically(record, json.dumps(supernet_rows(supernet, bench, target, methods)) + "\n")
        for name, row in json.loads(record.read_text()).items():
            value = {"kendall": row} if name == "kendall" else row
            rows.append({"method": name, "target": target, "seed": bench.seed} | value)
            log.info("%s", rows[-1])
    supernet.search.close()
    return rows


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over targets and seeds; the errors are of seeds, whose targets share a supernet."""
    found: dict[str, Any] = {"searches": len(rows)}
    for name in ("percentile", "gap"):
        by_seed: dict[int, list[float]] = {}
        for row in rows:
            by_seed.setdefault(row["seed"], []).append(row[name])
        means = [statistics.fmean(values) for values in by_seed.values()]
        found[name] = statistics.fmean(row[name] for row in rows)
        found[f"{name}_error"] = statistics.stdev(means) / len(means) ** 0.5 if len(means) > 1 else None
    return found | {"cost": statistics.fmean(row["cost"] for row in rows)}


def print_record(rows: Sequence[dict[str, Any]], about: dict[str, Any], controls: tuple[int, ...]) -> None:
    """Prints a table of the methods and, last, one line of JSON: a summary of each method, what `about` says, and the
    rows."""
    methods = dict.fromkeys(row["method"] for row in rows if "percentile" in row)
    record: dict[str, Any] = {m: summary([row for row in rows if row["method"] == m]) for m in methods}
    if f"control_{controls[-1]}" in record:
        record["control"] = record[f"control_{controls[-1]}"]
    record["random"] = {"percentile": 50.0, "gap": 1.0, "cost": 0}
    if kendall := [row["kendall"] for row in rows if "kendall" in row]:
        record["kendall"] = statistics.fmean(kendall)
    print("| method | percentile | gap | images through a network beside the weights |\n|---|---|---|---|")
    for name in (*methods, "random"):
        r = record[name]
        errors = [f" ± {r[key]:.2g}" if r.get(key) is not None else "" for key in ("percentile_error", "gap_error")]
        print(f"| {name} | {r['percentile']:.1f}{errors[0]} | {r['gap']:.2f}{errors[1]} | {r['cost']:,.0f} |")
    print(json.dumps(record | about | {"band": BAND, **made_on(), "rows": list(rows)}))
