"""Does a search hit its target?  python benchmarks/search_target.py

The ImageNet space with a latency table measured on this CPU at 224 px, batch 1, one thread. The supernet is trained on
real images (Fashion-MNIST) at 48 px, which changes nothing that latency depends on: alpha, its costs and the derivation
are of the 224 px networks. Targets are 25, 50 and 75 % of the reachable range; the settings are the same for all
(benchmarks/target/search.yaml), and the warm-up, which does not depend on the target, is run once. All searches come
first; then each network is derived and timed. The table, the warm-up and every finished search are kept below --out and
used by the next call; what was made with other settings is refused.

Prints a table in Markdown and one line of JSON. For each of `targets`: target_ms; expected_error, the mean of
|E - T| / T over the last 10 % of steps, before any derivation; predicted_ms of the derived network (predicted_first_ms:
before the closed loop moved the bound, where it did); measured_ms, in a fresh timing that did not decide its
acceptance; error, measured / target - 1; noise, between the rounds of the timing, as a share of the target;
acceptable_error, what the closed loop would accept of this timing, from its standard error; holds, whether the bars are
met: expected error 1e-6, predicted (first) in [0.98 T, T], measured within acceptable_error of T; loss, mean over the
batches of the curves' last points (a batch every run.log_every steps; 2.30 is chance).
"""

import argparse
import json
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from engine.config import differences
from engine.data import open_images, stratified_split, subset
from engine.device import prepare_device
from engine.distributed import ALONE
from engine.errors import ConfigError, run_command
from engine.files import write_atomically
from engine.progress import Stages, set_up_logging
from latency.device import made_on
from latency.measure import measure_table, time_architecture
from latency.table import LatencyTable
from methods import warm_up
from search.config import SearchConfig
from search.derive.clock import acceptable_error
from search.derive.measured import derive_measured
from search.limits.limit import ROUNDING, AdditiveLimit, TableSource
from search.loop import Search
from search.many.family import newest_state
from search.plan import Plan
from supernet.architecture import Architecture
from supernet.space import Space

SEARCH = Path(__file__).resolve().parent / "target" / "search.yaml"
SHARES = (0.25, 0.5, 0.75)
PIXELS = 48
"""That the supernet is trained at."""
VERIFIED = 20
RECORD = "found.json"
LAST = 0.1
"""The share of the steps, at the end, in which the expected latency has to be at its target."""


def plan_of(config: SearchConfig, limit: AdditiveLimit, steps: int) -> Plan:
    """The search at PIXELS under a limit on the networks at full size, `steps` weights steps long."""
    space = config.space.model_copy(update={"input_size": PIXELS})
    run = config.run.model_copy(update={"checkpoint_every": config.search.warmup_epochs * steps})
    config = config.model_copy(update={"space": space, "run": run})
    images = open_images(config.data, input_size=PIXELS, channels=space.input_channels, classes=space.classes).train
    count = steps * config.search.batch_size
    training, validation = stratified_split(images.labels, config.data.validation, config.run.seed)
    if count > len(training):
        raise ValueError(f"{steps} steps need {count} training images, there are {len(training)}")
    # one epoch of exactly so many steps
    parts = subset(images, training[:count]), subset(images, validation)
    return Plan(config, Space(space), (limit,), prepare_device(config.run), *parts)


def limit_at(share: float, table: LatencyTable, path: Path, config: SearchConfig, space: Space) -> AdditiveLimit:
    cost = table.cost(space)
    low, high = cost.reachable
    target = low + share * (high - low)
    return AdditiveLimit(
        name="latency", metric="latency", kind="at", bound=target, unit="ms", tolerance=0.02, cost=cost,
        sources=(TableSource(path, table, cost, config.measure),),
    )  # fmt: skip


def settings_of(plan: Plan) -> dict[str, Any]:
    """Returns the settings that a warm-up depends on, besides the program; a search also depends on its target."""
    return plan.config.model_dump(mode="json", exclude={"limits"})


def warmed_up(plan: Plan, out: Path) -> None:
    """Leaves a checkpoint of the end of the warm-up in `out`, where no earlier call has."""
    if kept(out, settings_of(plan)) is None:
        shutil.rmtree(out, ignore_errors=True)  # half a warm-up: nothing says with which settings
        warm_up(plan, out)
        keep(out, settings_of(plan), {})


def searched(plan: Plan, warm: Path, out: Path, steps: int) -> dict[str, Any]:
    """expected_error, loss and seconds of the search in `out`, which is run where no earlier call has."""
    (limit,) = plan.additive
    settings = settings_of(plan) | {"target_ms": limit.bound}
    known = kept(out, settings)
    if known is not None:
        return known
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(warm, out)
    (out / RECORD).unlink()  # the warm-up's
    began = time.monotonic()
    # without its table's source: the networks are not those of this space, so the search must not time them
    Search(replace(plan, limits=(replace(limit, sources=()),)), out, True, ALONE).run()
    curves = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    late = [c for c in curves if c["step"] > plan.steps - LAST * steps]
    errors = [abs(c["expected/latency"] / limit.bound - 1) for c in late if "expected/latency" in c]
    losses = [c["train/loss"] for c in late if "train/loss" in c]
    found = {
        "expected_error": sum(errors) / len(errors),
        "loss": sum(losses) / len(losses),
        "seconds": time.monotonic() - began,
    }
    keep(out, settings, found)
    return found


def kept(folder: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """Returns the record that `keep` has left in `folder`; None if there is none. Raises ConfigError if it was made
    with other settings."""
    path = folder / RECORD
    if not path.exists():
        return None
    record = json.loads(path.read_text())
    changed = differences(record["settings"], settings)
    if changed:
        raise ConfigError(f"{path}: was made with other settings ({'; '.join(changed)}); choose another --out")
    found: dict[str, Any] = record["found"]
    return found


def keep(folder: Path, settings: dict[str, Any], found: dict[str, Any]) -> None:
    write_atomically(folder / RECORD, json.dumps({"settings": settings, "found": found}, indent=1) + "\n")


def derived(config: SearchConfig, space: Space, limit: AdditiveLimit, out: Path) -> dict[str, Any]:
    """The network of the search in `out`, accepted by its measured latency and then timed afresh."""
    _, _, alpha = newest_state(out, space, "constrained")
    found = derive_measured(alpha, space, (limit,), "constrained")
    paths = found.derivation.paths
    timing = time_architecture(Architecture(space, paths), config.measure)
    predicted = limit.cost.of(paths)
    return {
        "predicted_ms": predicted,
        "measured_ms": timing.median_ms,
        "error": timing.median_ms / limit.bound - 1,
        "noise": timing.noise_ms / limit.bound,
        "acceptable_error": acceptable_error(timing),
        "tries": len(found.tries),
        "predicted_first_ms": found.tries[0].timed[0].reading.predicted if found.tries else predicted,
    }


def holds(row: dict[str, Any]) -> bool:
    """Whether the bars are met."""
    target, first = row["target_ms"], row["predicted_first_ms"]
    return bool(
        row["expected_error"] <= 1e-6
        and 0.98 * target <= first * (1 + ROUNDING)
        and first <= target * (1 + ROUNDING)
        and abs(row["error"]) <= row["acceptable_error"]
    )


def out_of(folder: Path, share: float) -> Path:
    return folder / f"search-{round(100 * share)}"


def run(args: argparse.Namespace) -> int:
    config = SearchConfig.read(SEARCH, args.data)
    space = Space(config.space)
    args.out.mkdir(parents=True, exist_ok=True)
    path, warm = args.out / "table.yaml", args.out / "warm-up"
    if not path.exists():
        with Stages() as stages:
            measure_table(space, config.measure, seed=0, verify=VERIFIED, report=stages).save(path)
    table = LatencyTable.load(path)
    plans = {share: plan_of(config, limit_at(share, table, path, config, space), args.steps) for share in SHARES}
    first = plans[SHARES[0]]
    warmed_up(first, warm)
    rows = [
        {"share": share, "target_ms": plan.limits[0].bound} | searched(plan, warm, out_of(args.out, share), args.steps)
        for share, plan in plans.items()
    ]
    for row, plan in zip(rows, plans.values(), strict=True):
        row |= derived(config, space, plan.additive[0], out_of(args.out, row["share"]))
        row["holds"] = holds(row)
    print("| target ms | expected error | predicted ms | measured ms | error | noise | tries |")
    print("|---|---|---|---|---|---|---|")
    for r in rows:
        print(
            f"| {r['target_ms']:.2f} | {r['expected_error']:.1e} | {r['predicted_ms']:.2f} "
            f"| {r['measured_ms']:.2f} | {100 * r['error']:+.1f} % | {100 * r['noise']:.1f} % | {r['tries']} |"
        )
    record = {
        "targets": rows,
        "steps": args.steps,
        "warmup_steps": first.warmup_steps,
        "table_error_percent": table.verification.table.mape_percent if table.verification else None,
        **made_on(),
    }
    print(json.dumps(record))
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--steps", type=int, default=500, help="weights steps of each search, an architecture step each"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/search_target"), help="what is done is kept here")
    parser.add_argument("data", nargs="*", help="overrides of the data section, e.g. data.root=/data")
    args = parser.parse_intermixed_args()
    set_up_logging()
    return run(args)


if __name__ == "__main__":
    run_command(main)
