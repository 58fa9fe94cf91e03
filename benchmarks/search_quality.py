"""Does the search find good networks?  python benchmarks/search_quality.py

A space of 144 networks (benchmarks/quality/search.yaml), each trained from scratch beforehand (truth.json: test top-1
for each seed; `--truth` makes it). A latency table is measured on this CPU; for three targets and five seeds each
algorithm searches, and its network's true accuracy is compared with those of all networks whose latency lies in
[0.9 T, T].

Every call retrains two random networks and, of each target's band, the one of median latency; they have to reproduce
the truth: to the bit on the device and torch that made it, elsewhere within 4 standard deviations of the seed noise. It
exits with status 1 where they do not. What a search costs in trainings is measured, too: of each algorithm one fresh
search between two trainings, so that whatever else runs slows both alike.

The table and every finished search are kept below --out and used by the next call, so a stopped run goes on; what was
made with other settings is refused.

Prints tables in Markdown and one line of JSON. For each algorithm: percentile (share of the other networks of the band
that are worse; ties count half; random is 50), gap ((best - derived) / (best - mean of the band)), met_target (share of
searches that meet T on the table), met_measured (share whose network's fresh timing, after all searches and not used
for acceptance, is at most T, or above it by no more than the closed loop accepts; believed: share of these timings that
were steady, while a reference that was timed in turn took what the table says), seconds and trainings (of the fresh
search: its time, and the same over that of a training); likeliest_percentile and likeliest_gap are of the network that
the search's alpha alone would have chosen (derive_among 1). `random` is random search with floor(trainings) networks of
the band, of the algorithm that costs most, by exact expectation; it trains each once and yet chooses by the mean over
seeds that it is judged by, which flatters it. `control` is what the supernet alone is worth: derive_among networks of
the band at random, of which its loss chooses. kendall: rank correlation of the supernet's accuracies with the truth,
over all networks. spread_over_noise: standard deviation of true accuracy within a band, what seeds add to it taken out,
over the truth's seed noise.
"""

import argparse
import json
import logging
import math
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import kendalltau

from bands import Band
from engine.errors import UserError, run_command
from engine.progress import set_up_logging
from latency.config import LatencyConfig, MeasureConfig
from latency.device import made_on
from latency.measure import measure_table
from latency.table import LatencyTable
from search.config import SearchConfig
from search.derive.clock import Clock, Reading, meets_bound
from search.derive.derivation import constrained
from search.limits.limit import ROUNDING, AdditiveLimit
from search.loop import finish_search
from search.many.family import newest_state
from search.result import ResultFile
from search.scoring import open_parts, score
from supernet.architecture import Architecture
from supernet.cost import Cost
from supernet.space import Space
from supernet.supernet import Supernet
from truth import Paths, Trainings, Truth

HERE = Path(__file__).resolve().parent / "quality"
SEARCH, RETRAIN, TRUTH = HERE / "search.yaml", HERE / "retrain.yaml", HERE / "truth.json"
ALGORITHMS = ("regression", "two_path", "full_v2", "reinforce")
SHARES = (0.25, 0.4, 0.55)
"""The targets, as shares of the reachable range. Above them, networks of similar latency differ by little more than
seeds do."""
FIRST_SEED = 2
"""The first seed of the searches: seeds 0 and 1 were used to choose the settings in search.yaml."""
VERIFIED = 20
LARGEST_ERROR = 25
"""The error in percent up to which a table is accepted. Accuracies are compared among networks that cost the same by
the table, whether it is right or not; a disturbed one tells nothing about milliseconds, and `believed` says so."""
ABOUT = {
    "format": "proxylessnas/search-quality-truth@1",
    "what": "test top-1 (percent) of every network of search.yaml's space, trained as in retrain.yaml; one number per "
    "seed 0, 1, ...",
    "command": "python benchmarks/search_quality.py --truth",
}
"""What truth.json says of itself."""

log = logging.getLogger("benchmark")


# --- the searches ----------------------------------------------------------------------------------------------------


def one_search(
    algorithm: str, target: float, seed: int, table: Path, out: Path, data: Sequence[str]
) -> tuple[ResultFile, Architecture]:
    """A search that an earlier call has finished is not run again."""
    accepted = f"limits.0.largest_error={LARGEST_ERROR}"
    overrides = [f"limits.0.table={table}", accepted, f"limits.0.at={target}", f"run.seed={seed}", *data]
    own = HERE / f"{algorithm}.yaml"
    config = own if own.exists() else SEARCH
    result = finish_search(config, out, overrides=[f"search.arch_update={algorithm}", *overrides])
    return result, Architecture.from_json((out / "architecture.json").read_text())


def price(algorithm: str, target: float, network: Paths, trainings: Trainings, table: Path) -> tuple[float, float]:
    """Seconds of a fresh search, and of a training: the mean of one before it and one after it. No network is timed in
    this search, as those of random search are not either."""
    _, before = trainings.top1(network, 0)
    with tempfile.TemporaryDirectory() as folder:
        untimed = [*trainings.data, "measure.device=external"]
        result, _ = one_search(algorithm, target, 0, table.absolute(), Path(folder) / "search", untimed)
    _, after = trainings.top1(network, 0)
    return result.seconds, (before + after) / 2


def judged(architecture: Architecture, seconds: float, band: Band, truth: Truth, cost: Cost) -> dict[str, Any]:
    """One search's row."""
    paths = architecture.paths
    index = truth.paths.index(paths)
    accuracy = float(truth.accuracy[index])
    return {
        "target_ms": band.target,
        "network": " ".join(architecture.names),
        "top1": accuracy,
        "percentile": band.percentile(index, accuracy),
        "gap": band.gap(accuracy),
        "predicted_ms": cost.of(paths),
        "met": cost.of(paths) <= band.target * (1 + ROUNDING),
        "seconds": seconds,
    }


def timed(found: Reading, target: float) -> dict[str, Any]:
    """Returns the columns that a fresh timing of its network adds to a row."""
    return found.figures() | {"met_measured": meets_bound(found.timing, target)}


def likeliest_row(run: Path, space: Space, limit: AdditiveLimit, band: Band, truth: Truth) -> dict[str, Any]:
    """Returns the columns that derive_among adds to a row: those of the network that alpha alone would have chosen."""
    _, _, alpha = newest_state(run, space, "constrained")
    index = truth.paths.index(constrained(alpha, [limit]).paths)
    accuracy = float(truth.accuracy[index])
    return {"likeliest_percentile": band.percentile(index, accuracy), "likeliest_gap": band.gap(accuracy)}


def supernet_losses(run: Path, truth: Truth, space: Space, data: Sequence[str]) -> np.ndarray:
    """(networks,): validation loss of every network with a search's weights."""
    config = SearchConfig.read(run / "config.yaml", data)
    training, validation = open_parts(config)
    net = Supernet(space)
    _, state, _ = newest_state(run, space, "constrained")
    net.load_state_dict(state["net"])
    device = torch.device("cpu")
    return np.array(
        [score(net, Architecture(space, paths), config, training, validation, device).loss for paths in truth.paths]
    )


def mean(rows: Sequence[dict[str, Any]], name: str) -> float:
    return statistics.fmean(float(row[name]) for row in rows)


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    names = {"percentile": "percentile", "gap": "gap", "met_target": "met"}
    same = ("met_measured", "believed", "likeliest_percentile", "likeliest_gap")
    return {name: mean(rows, column) for name, column in (names | {name: name for name in same}).items()}


def opened_table(out: Path, given: Path | None, space: Space, measure: MeasureConfig) -> tuple[Path, LatencyTable]:
    """The table below `out`, which an earlier call has left, or `given`, or measured now."""
    path = out / "table.yaml"
    if not path.exists():
        chosen = LatencyTable.load(given) if given else measure_table(space, measure, verify=VERIFIED)
        chosen.save(path)
    table = LatencyTable.load(path)
    if given and LatencyTable.load(given).sha256 != table.sha256:
        raise UserError(f"--table: {path} is another one than {given}; choose another --out, or leave it away")
    return path, table


@dataclass
class Found:
    """Returns the results of all searches."""

    rows: dict[str, list[dict[str, Any]]]
    """By algorithm."""
    architectures: list[tuple[Architecture, dict[str, Any]]]
    """Each derived network with its row."""
    kendall: list[float]
    control: list[tuple[float, float]]
    """Percentile and gap, of the first algorithm's first search at each target."""


def all_searches(
    args: argparse.Namespace, config: SearchConfig, table: Path, bands: Sequence[Band], truth: Truth, cost: Cost
) -> Found:
    found = Found({algorithm: [] for algorithm in args.algorithms}, [], [], [])
    space = Space(config.space)
    for seed in range(FIRST_SEED, FIRST_SEED + args.seeds):
        for b, band in enumerate(bands):
            limit = AdditiveLimit(
                name="latency", metric="latency", kind="at", bound=band.target, unit="ms",
                tolerance=config.limits[0].tolerance, cost=cost,
            )  # fmt: skip
            for algorithm in args.algorithms:
                out = args.out / f"{algorithm}-{b}-{seed}"
                result, architecture = one_search(algorithm, band.target, seed, table, out, args.data)
                row = judged(architecture, result.seconds, band, truth, cost)
                row |= likeliest_row(out, space, limit, band, truth)
                found.rows[algorithm].append(row)
                found.architectures.append((architecture, row))
                log.info("%s, T %.3f ms, seed %d: %s", algorithm, band.target, seed, row)
                if seed == FIRST_SEED and algorithm == args.algorithms[0]:
                    losses = supernet_losses(out, truth, space, args.data)
                    found.kendall.append(float(kendalltau(-losses, truth.accuracy).statistic))
                    found.control.append(band.chosen_by(losses[band.indices], config.search.derive_among))
    return found


def run(args: argparse.Namespace) -> int:
    config = SearchConfig.read(SEARCH, args.data)
    space = Space(config.space)
    trainings = Trainings(space, RETRAIN, args.data)
    if args.truth:
        trainings.make_truth(TRUTH, args.truth_seeds, ABOUT)
        return 0
    truth = Truth.load(TRUTH, space)
    args.out.mkdir(parents=True, exist_ok=True)
    measure = LatencyConfig.read(SEARCH).measure
    path, table = opened_table(args.out, args.table, space, measure)
    cost = table.cost(space)
    costs = np.array([cost.of(paths) for paths in truth.paths])
    low, high = cost.reachable
    bands = [Band.of(low + share * (high - low), costs, truth.accuracy) for share in SHARES]
    anywhere = np.random.default_rng().choice(len(truth.paths), 2, replace=False).tolist()
    reproduced = truth.reproduced(trainings, [*anywhere, *(band.middle(costs) for band in bands)])
    found = all_searches(args, config, path, bands, truth, cost)
    clock = Clock.of(space, cost, measure)
    timings = {paths: clock.timed(paths) for paths in {a.paths for a, _ in found.architectures}}
    for architecture, row in found.architectures:
        row |= timed(timings[architecture.paths], row["target_ms"])
    middle = bands[len(bands) // 2]
    network = truth.paths[middle.middle(costs)]
    prices = {a: price(a, middle.target, network, trainings, path) for a in args.algorithms}
    report = {
        algorithm: summary(rows)
        | {"seconds": prices[algorithm][0], "trainings": prices[algorithm][0] / prices[algorithm][1]}
        for algorithm, rows in found.rows.items()
    }
    largest = max(int(entry["trainings"]) for entry in report.values())
    training_seconds = statistics.fmean(training for _, training in prices.values())
    chance = [band.random_search(largest) for band in bands]
    spread = [math.sqrt(max(0.0, float(band.accuracies.var(ddof=1)) - truth.noise**2)) for band in bands]
    record = report | {
        "random": {
            "networks": largest,
            "percentile": statistics.fmean(p for p, _ in chance),
            "gap": statistics.fmean(g for _, g in chance),
            "met_target": 1.0,
            "seconds": largest * training_seconds,
        },
        "control": {
            "networks": config.search.derive_among,
            "percentile": statistics.fmean(p for p, _ in found.control),
            "gap": statistics.fmean(g for _, g in found.control),
        },
        "kendall": statistics.fmean(found.kendall),
        "spread_over_noise": statistics.fmean(spread) / truth.seed_noise,
        "spread": spread,
        "seed_noise": truth.seed_noise,
        "networks_in_bands": [len(band.indices) for band in bands],
        "training_seconds": training_seconds,
        "reproduced": reproduced,
        "table_error_percent": table.verification.table.mape_percent if table.verification else None,
        **made_on(),
    }
    _print(record, args.algorithms)
    print(json.dumps(record | {"searches": found.rows}))
    return 0 if all(entry["holds"] for entry in reproduced) else 1


def _print(record: dict[str, Any], algorithms: Sequence[str]) -> None:
    print("| search | percentile | gap | by alpha alone | meets T, table | meets T, measured | seconds | trainings |")
    print("|---|---|---|---|---|---|---|---|")
    for name in algorithms:
        r = record[name]
        print(
            f"| {name} | {r['percentile']:.0f} | {r['gap']:.2f} | {r['likeliest_percentile']:.0f} / "
            f"{r['likeliest_gap']:.2f} | {100 * r['met_target']:.0f} % | {100 * r['met_measured']:.0f} % "
            f"| {r['seconds']:.0f} | {r['trainings']:.1f} |"
        )
    r, c = record["random"], record["control"]
    print(f"| random, {r['networks']} networks | {r['percentile']:.0f} | {r['gap']:.2f} | | | | {r['seconds']:.0f} | |")
    print(f"| control, {c['networks']} networks | {c['percentile']:.0f} | {c['gap']:.2f} | | | | | |")
    print(
        f"\nnetworks in the bands {record['networks_in_bands']}; spread of true accuracy in them "
        f"{', '.join(f'{s:.2f}' for s in record['spread'])} points, seed noise {record['seed_noise']:.2f}; Kendall of "
        f"the supernet {record['kendall']:.2f}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--truth", action="store_true", help="train every network and write truth.json")
    parser.add_argument("--truth-seeds", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=5, help="searches per target and algorithm")
    parser.add_argument("--algorithms", nargs="+", default=list(ALGORITHMS), choices=ALGORITHMS)
    parser.add_argument("--table", type=Path, help="one that was measured on this machine; default: measure it now")
    parser.add_argument("--out", type=Path, default=Path("runs/search_quality"), help="what is done is kept here")
    parser.add_argument("data", nargs="*", help="overrides of the data section, e.g. data.root=/data")
    args = parser.parse_intermixed_args()
    set_up_logging()
    torch.set_num_threads(1)
    return run(args)


if __name__ == "__main__":
    run_command(main)
