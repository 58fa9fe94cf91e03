"""How few whole networks make a latency table, and what a prior adds:

    python benchmarks/few_shot_tables.py --phones PHONES --cpu tables/imagenet_cpu.yaml
    python benchmarks/few_shot_tables.py --published HELP/data/fbnet

--phones: a folder with mobile_trim.yaml and pixel_trim.yaml, the official tables of two phones (docs/latency.md). Each
is the new device in turn, the other one a prior. Its timings are simulated: sums over the table times noise, in one
case with a time of its own for each pair of adjacent ops. --cpu: a table of configs/latency/imagenet_cpu.yaml, another
prior.

--published: the folder data/fbnet of github.com/HayeonLee/HELP, timings of 5,000 networks of the FBNet space on each of
27 devices. Tables of three of them are priors (fitted to all their networks), the devices on which the settings of
latency/shrinkage.py were chosen are left out, and 13 others are new devices.

Networks are drawn uniformly at random. Tables are fitted to 15 to 300 of them by latency/shrinkage.py, and, "before",
by a pull to one common factor. Prints Spearman and MAPE on held-out networks (simulated: 300, without noise; published:
1,000), their mean and standard error over seeds, and ends with one line of JSON.
"""

import argparse
import json
import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engine.errors import ConfigError, run_command
from latency.build import occurrences
from latency.calibration import fit_correction
from latency.config import LatencyConfig
from latency.device import made_on
from latency.importers import import_official
from latency.plan import Paths, network_job, timed_layers
from latency.prior import Prior, macs_prior, table_prior
from latency.shrinkage import Layers, Shrunk, fit_entries, guess
from latency.table import LatencyTable
from latency.verification import scores
from supernet.space import Space

HERE = Path(__file__).resolve().parent
COUNTS = (15, 30, 60, 120, 300)
PHONES = ("mobile_trim", "pixel_trim")
CASES = {"additive, noise 1 %": (0.01, 0.0), "additive, noise 3 %": (0.03, 0.0), "pairs 5 %, noise 2 %": (0.02, 0.05)}
"""Name -> (relative noise of a timing, time of a pair as a share of the faster op)."""
PUBLISHED_PRIORS = {"phone": "pixel3", "CPU": "silver_4210r", "GPU": "2080ti_32"}
NEW_DEVICES = (
    *("gold_6226", "gold_6240", "titan_rtx_1", "titan_rtx_32", "titan_rtx_64", "titanxp_1", "titanxp_32", "titanxp_64"),
    *("raspi4", "fpga", "pixel2", "essential_ph_1", "samsung_s7"),
)
FIRST_SEED = 100
"""Seeds below it had chosen the settings."""


@dataclass(frozen=True)
class Sample:
    """Timed networks of a device, and held-out ones. counts: (networks, layers). ms: (networks,)."""

    counts: np.ndarray
    ms: np.ndarray
    fresh_counts: np.ndarray
    fresh_ms: np.ndarray


Draw = Callable[[int, int], Sample]
"""(networks, seed) -> the sample of a device."""
Result = dict[int, dict[str, list[tuple[float, float]]]]
"""Networks -> prior -> (Spearman, MAPE percent) of each seed."""


def read_space(config: Path) -> Space:
    return Space(LatencyConfig.read(config).space)


def counts_of(space: Space, networks: Sequence[Paths]) -> np.ndarray:
    jobs = [network_job(space, f"network{i}", "calibration", paths) for i, paths in enumerate(networks)]
    return occurrences(jobs, [str(layer) for layer in timed_layers(space)])


def evaluated(layers: Layers, draw: Draw, priors: dict[str, Prior], seeds: Sequence[int]) -> Result:
    """Fits tables to each number of networks with each prior."""
    found: Result = {}
    for count in COUNTS:
        found[count] = {}
        for seed in seeds:
            sample = draw(count, seed)
            for name, fit in fits(layers, sample, priors):
                found[count].setdefault(name, []).append(score_of(fit, sample))
    return found


def fits(layers: Layers, sample: Sample, priors: dict[str, Prior]) -> Iterator[tuple[str, Shrunk]]:
    """Yields (prior, fit)."""
    start = guess(layers.shapes, sample.counts, sample.ms)
    before = fit_correction(sample.counts, start, sample.ms)
    yield "before", Shrunk(before.factors * start, before.constant, before.strength)
    for name, prior in {"none": None, **priors}.items():
        known = Layers(layers.shapes, layers.likeness, None if prior is None else prior.entries)
        yield name, fit_entries(known, sample.counts, sample.ms)


def score_of(fit: Shrunk, sample: Sample) -> tuple[float, float]:
    """(Spearman, MAPE percent) on the held-out networks."""
    found = scores(sample.fresh_counts @ fit.ms + fit.constant, sample.fresh_ms)
    return found.spearman or 0.0, found.mape_percent


# ---- simulated phones ----


def simulated(space: Space, table: LatencyTable, noise: float, pairs: float) -> Draw:
    """A device whose networks take the table's sums, and for each pair of adjacent ops `pairs` times a normal number of
    its own times the faster one's time."""
    cost = table.cost(space)
    edges, width = cost.table.shape
    own = np.random.default_rng(zlib.crc32(table.device.name.encode())).normal(size=(edges - 1, width, width))

    def takes(paths: Paths) -> float:
        each = cost.table[np.arange(edges), list(paths)]
        of_pairs = own[np.arange(edges - 1), list(paths[:-1]), list(paths[1:])] * np.minimum(each[:-1], each[1:])
        return cost.of(paths) + pairs * float(of_pairs.sum())

    def draw(count: int, seed: int) -> Sample:
        rng = np.random.default_rng(seed)
        networks: dict[Paths, None] = {}
        while len(networks) < count + 300:
            networks[tuple(int(rng.integers(size)) for size in space.mask.sum(axis=1))] = None
        counts, ms = counts_of(space, list(networks)), np.array([takes(paths) for paths in networks])
        timed = ms[:count] * np.exp(noise * rng.normal(size=count))
        return Sample(counts[:count], timed, counts[count:], ms[count:])

    return draw


def phones(folder: Path, cpu: Path | None, seeds: Sequence[int]) -> dict[str, Any]:
    space = read_space(HERE.parent / "configs" / "latency" / "imagenet_cpu.yaml")
    tables = {name: import_official(folder / f"{name}.yaml", device_name=name) for name in PHONES}
    layers = Layers.of(timed_layers(space))
    results: dict[str, Any] = {}
    for case, (noise, pairs) in CASES.items():
        found = []
        for new, other in zip(PHONES, reversed(PHONES), strict=True):
            priors = {"macs": macs_prior(space), "phone": table_prior(tables[other], space, other)}
            if cpu:
                priors["CPU"] = table_prior(LatencyTable.load(cpu), space, str(cpu))
            draw = simulated(space, tables[new], noise, pairs)
            found.append(evaluated(layers, draw, priors, seeds))
        results[case] = means(found)
        show(f"simulated phones, {case}", "networks", results[case])
    return results


# ---- published timings ----


def published_ms(folder: Path, device: str) -> np.ndarray:
    """(5000,) ms."""
    return np.array(torch.load(folder / "latency" / f"{device}.pt", weights_only=True), dtype=float)


def published(folder: Path, seeds: Sequence[int]) -> dict[str, Any]:
    if not (folder / "arch.pt").is_file():
        raise ConfigError(f"--published {folder}: has no arch.pt; expected the folder data/fbnet of HayeonLee/HELP")
    space = read_space(HERE / "few_shot" / "fbnet.yaml")
    networks = [tuple(paths) for paths in torch.load(folder / "arch.pt", weights_only=True)]
    counts, layers = counts_of(space, networks), Layers.of(timed_layers(space))
    priors = {"macs": macs_prior(space)}
    for name, device in PUBLISHED_PRIORS.items():
        ms = published_ms(folder, device)
        priors[name] = Prior(device, fit_entries(layers, counts, ms).ms, device=device)
    found, most = {}, {}
    for device in NEW_DEVICES:
        ms = published_ms(folder, device)

        def draw(count: int, seed: int, ms: np.ndarray = ms) -> Sample:
            order = np.random.default_rng(seed).permutation(len(ms))
            timed, fresh = order[:count], order[-1000:]
            return Sample(counts[timed], ms[timed], counts[fresh], ms[fresh])

        found[device] = evaluated(layers, draw, priors, seeds)
        samples = [draw(4000, seed) for seed in seeds]
        most[device] = [score_of(fit_entries(layers, s.counts, s.ms), s) for s in samples]
    results = {device: means([result]) for device, result in found.items()}
    by_device = {
        device: result["30"] | {"none, 4000 networks": mean_and_error(np.array(most[device]))}
        for device, result in results.items()
    }
    show("published, 30 networks", "device", by_device)
    mean = means(list(found.values()))
    show(f"published, mean of these {len(found)} devices", "networks", mean)
    return {"of_30": by_device, "of_each": results, "mean": mean}


# ---- what is printed ----


def means(found: Sequence[Result]) -> dict[str, Any]:
    """Returns networks -> prior -> [Spearman, its standard error over seeds, MAPE percent, its standard error], means
    over devices and seeds."""
    return {
        str(count): {
            name: mean_and_error(np.mean([result[count][name] for result in found], axis=0)) for name in found[0][count]
        }
        for count in COUNTS
    }


def mean_and_error(of_seeds: np.ndarray) -> list[float]:
    """of_seeds: (seeds, 2)."""
    mean, error = of_seeds.mean(axis=0), of_seeds.std(axis=0, ddof=1) / math.sqrt(len(of_seeds))
    return [round(float(v), 4) for v in (mean[0], error[0], mean[1], error[1])]


def show(title: str, first: str, rows: dict[str, Any]) -> None:
    """Prints a table in Markdown."""
    names = list(next(iter(rows.values())))
    print(f"\n{title}: Spearman ± standard error, MAPE %\n\n| {first} | {' | '.join(names)} |")
    print("|---" * (len(names) + 1) + "|")
    for row, cells in rows.items():
        print(f"| {row} | {' | '.join(f'{s:.3f} ± {e:.3f}, {m:.1f}' for s, e, m, _ in cells.values())} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--phones", type=Path, help="folder of mobile_trim.yaml and pixel_trim.yaml")
    parser.add_argument("--cpu", type=Path, help="table of the ImageNet space on a CPU")
    parser.add_argument("--published", type=Path, help="folder data/fbnet of HayeonLee/HELP")
    parser.add_argument("--seeds", type=int, default=10, help="number of draws (default 10, at least 2)")
    args = parser.parse_args()
    if args.seeds < 2:
        raise ConfigError(f"--seeds: got {args.seeds}, expected at least 2, for a standard error")
    if not args.phones and not args.published:
        raise ConfigError("nothing to do: expected --phones or --published; --help says where both come from")
    seeds = range(FIRST_SEED, FIRST_SEED + args.seeds)
    results: dict[str, Any] = made_on() | {"seeds": args.seeds}
    if args.phones:
        results["simulated"] = phones(args.phones, args.cpu, seeds)
    if args.published:
        results["published"] = published(args.published, seeds)
    print(json.dumps(results))


if __name__ == "__main__":
    run_command(main)
