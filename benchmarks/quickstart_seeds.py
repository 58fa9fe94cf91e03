"""The quick start with several seeds:  python benchmarks/quickstart_seeds.py

Each seed measures its own table, searches, retrains the derived network, and retrains random networks of the same
predicted latency alike. Prints a table in Markdown and one line of JSON. Per seed: target_ms; measured_ms and noise_ms
of the last timing, in which all networks ran in turn; error, measured / target - 1; met, the verdict of the search, by
its own timing; target_over_noise, top1, random_top1 (mean, standard deviation, best) and percentile (share of the
random networks that the derived one matches or beats).
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from engine.progress import set_up_logging
from latency.device import made_on
from proxyless_nas.quickstart import quickstart


def summary(record: dict[str, Any]) -> dict[str, Any]:
    """One seed's figures."""
    derived, *others = record["networks"]
    target, noise = record["target_ms"], derived["noise_ms"]
    random_top1 = [row["top1"] for row in others]
    return {
        "seed": record["seed"],
        "target_ms": target,
        "predicted_ms": derived["predicted_ms"],
        "measured_ms": derived["measured_ms"],
        "noise_ms": noise,
        "error": derived["measured_ms"] / target - 1,
        "met": record["met"],
        "target_over_noise": target / noise,
        "top1": derived["top1"],
        "random_top1": {
            "mean": statistics.fmean(random_top1),
            "std": statistics.stdev(random_top1),
            "best": max(random_top1),
            "all": random_top1,
        },
        "percentile": 100 * statistics.fmean(derived["top1"] >= top1 for top1 in random_top1),
        "seconds": record["seconds"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--baselines", type=int, default=10, help="random networks per seed")
    parser.add_argument("--out", type=Path, help="keep the runs here, and use finished ones")
    args = parser.parse_args()
    if args.baselines < 2:
        parser.error(f"--baselines: got {args.baselines}, expected at least 2")
    set_up_logging()
    with tempfile.TemporaryDirectory() as temporary:
        out = args.out or Path(temporary)
        rows = []
        for seed in range(args.seeds):
            folder = out / f"seed{seed}"
            finished = folder / "result.json"
            record = json.loads(finished.read_text()) if finished.exists() else None
            rows.append(summary(record or quickstart(folder, seed, args.baselines)))
    print(
        "| seed | target ms | measured ms | noise ms | top-1 % | random networks, top-1 % | derived matches or beats |"
    )
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        others = row["random_top1"]
        print(
            f"| {row['seed']} | {row['target_ms']:.3f} | {row['measured_ms']:.3f} ({100 * row['error']:+.1f} %) "
            f"| {row['noise_ms']:.3f} | {row['top1']:.2f} | {others['mean']:.2f} ± {others['std']:.2f}, best "
            f"{others['best']:.2f} | {row['percentile']:.0f} % |"
        )
    print(json.dumps(made_on() | {"seeds": rows}))


if __name__ == "__main__":
    main()
