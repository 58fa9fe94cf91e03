"""How good a network can a ranking of a given quality find?  python benchmarks/ranking_bound.py --taus 0.53 0.72 0.80

For each target T of benchmarks/nas_bench_macro.py, every network of [0.9 T, T] gets a score: its true accuracy plus
independent Gaussian noise, whose spread is chosen so that Kendall's tau between score and accuracy has a given value.
The network with the best score is chosen. Printed are its percentile and gap (benchmarks/bands.py), in the mean of
DRAWS draws of the noise: what a search may expect whose ranking has that tau and no systematic error.

Three rows follow. "additive" is of an additive fit of the TRUE accuracies, for each target of the networks of 0.7 T to
1.2 T, about those that a search draws: what an additive alpha chooses that knows the truth instead of a supernet.
"additive, near T" is the same of the networks of 0.85 T to 1.05 T. "noise of the truth" is of a score that knows the
expected accuracy of each network exactly, judged by accuracies that are means of three trainings. Prints a table and,
last, one line of JSON; with Kendall's tau of the additive scores in each band. Exits with status 0 and says why where
--truth is absent.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from scipy.stats import kendalltau

from bands import Band
from engine.errors import run_command
from engine.progress import set_up_logging
from methods import Known
from nas_bench_macro import TARGETS, TRUTH, MacroTruth
from search.learn.regression import choices

DRAWS = 400
"""Draws of the noise of which a mean is taken; its standard error is then about 0.4 points and 0.01."""
FITTED = {"additive": (0.7, 1.2), "additive, near T": (0.85, 1.05)}
"""The additive models for T are fitted to the networks whose cost is between these multiples of T."""
TRAININGS = 3
"""Trainings of each network in NAS-Bench-Macro."""


def noise_for(tau: float, accuracies: np.ndarray, rng: np.random.Generator) -> float:
    """Returns the standard deviation of the noise at which score and accuracy have Kendall's tau, within about 0.01.

    accuracies: (networks,). tau: in (0, 1).
    """
    noise = rng.normal(size=(6, len(accuracies)))
    low, high = 0.0, 20 * float(accuracies.std())
    for _ in range(20):
        middle = (low + high) / 2
        found = np.mean([kendalltau(accuracies + middle * one, accuracies).statistic for one in noise])
        low, high = (middle, high) if found > tau else (low, middle)
    return (low + high) / 2


def chosen(band: Band, scores: np.ndarray) -> tuple[float, float]:
    """Returns the mean percentile and gap of the networks with the best scores. scores: (draws, networks of band)."""
    best = scores.argmax(axis=1)
    percentiles = [band.percentile(int(band.indices[i]), float(band.accuracies[i])) for i in best]
    return float(np.mean(percentiles)), float(np.mean([band.gap(float(band.accuracies[i])) for i in best]))


def at_tau(band: Band, tau: float, rng: np.random.Generator) -> tuple[float, float]:
    """Returns the expected percentile and gap of the network that a ranking with Kendall's `tau` puts first."""
    noise = noise_for(tau, band.accuracies, rng)
    return chosen(band, band.accuracies + noise * rng.normal(size=(DRAWS, len(band.accuracies))))


def additive_scores(truth: Known, band: Band, fitted: tuple[float, float]) -> np.ndarray:
    """Returns what an additive fit of the true accuracies says of each network of the band: (networks of band,).

    fitted: multiples of the band's target, between which the cost of the networks lies that the model is fitted to.
    """
    low, high = (factor * band.target for factor in fitted)
    near = (truth.macs >= low) & (truth.macs <= high)
    one_hot = choices(truth.networks, 1 + int(np.max(truth.networks))).numpy()
    # minimum-norm: the columns of an edge sum to 1
    effects = np.linalg.lstsq(one_hot[near], truth.accuracy[near], rcond=None)[0]
    scores: np.ndarray = one_hot[band.indices] @ effects
    return scores


def at_truth(band: Band, deviations: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """Returns the expected percentile and gap of the network whose expected accuracy is the highest of the band.

    The expected accuracies are drawn from their normal posterior. deviations: (networks of band,), the standard
    deviations of TRAININGS trainings, dividing by their number.
    """
    measured = band.accuracies
    noise = float(np.mean(deviations**2)) / (TRAININGS - 1)
    share = max(0.0, 1 - noise / float(measured.var()))
    middle = float(measured.mean())
    expected = middle + share * (measured - middle)
    return chosen(band, expected + np.sqrt(noise * share) * rng.normal(size=(DRAWS, len(measured))))


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n\n")[0])
    parser.add_argument("--truth", type=Path, default=TRUTH, help="JSON file of the accuracies (default: %(default)s)")
    parser.add_argument("--taus", type=float, nargs="+", default=[0.53, 0.6, 0.66, 0.72, 0.75, 0.8, 0.85])
    parser.add_argument("--targets", type=float, nargs="+", default=list(TARGETS), help="in 1e6 MACs")
    args = parser.parse_args()
    set_up_logging()
    if not all(0 < tau < 1 for tau in args.taus):
        parser.error(f"--taus: got {' '.join(f'{tau:g}' for tau in args.taus)}, expected numbers between 0 and 1")
    if not args.truth.exists():
        print(f"skipped: there is no {args.truth} (--truth)")
        return
    truth = MacroTruth.load(args.truth)
    record = json.loads(args.truth.read_text())["networks"]
    spread = np.array([value[1] for value in record.values()], dtype=float)
    rng = np.random.default_rng(0)
    rows: dict[str, list[tuple[float, float]]] = {}
    additive_tau: dict[str, dict[str, float]] = {}
    for target in args.targets:
        truth.check(target)
        band = truth.band(1e6 * target)
        for tau in args.taus:
            rows.setdefault(f"tau {tau:g}", []).append(at_tau(band, tau, rng))
        for name, fitted in FITTED.items():
            scores = additive_scores(truth, band, fitted)
            tau = round(float(kendalltau(scores, band.accuracies).statistic), 4)
            additive_tau.setdefault(name, {})[f"{target:g}"] = tau
            rows.setdefault(name, []).append(chosen(band, scores[None]))
        rows.setdefault("noise of the truth", []).append(at_truth(band, spread[band.indices], rng))
    print(f"{'percentile / gap':24}" + "".join(f"{target:>11g} M" for target in args.targets) + f"{'mean':>13}")
    for name, cells in rows.items():
        every = [*cells, tuple(np.mean(cells, axis=0))]
        print(f"{name:24}" + "".join(f"{percentile:7.1f} /{gap:5.2f}" for percentile, gap in every))
    means = {
        name: dict(zip(("percentile", "gap"), np.mean(cells, axis=0), strict=True)) for name, cells in rows.items()
    }
    rounded = {name: {key: round(float(x), 4) for key, x in mean.items()} for name, mean in means.items()}
    print(json.dumps({**rounded, "additive_tau": additive_tau}))


if __name__ == "__main__":
    run_command(main)
