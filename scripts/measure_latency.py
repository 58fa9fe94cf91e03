"""Measure a latency table:

    python scripts/measure_latency.py configs/search/imagenet_cpu.yaml --out tables/imagenet_cpu.yaml

CONFIG is any YAML with a `space` section: a search config makes its own table, configs/latency/ has smaller files.
The section `measure` says the device, threads, batch and precision.
"""

import argparse
from pathlib import Path

from engine.config import load_config, validate
from engine.errors import run_door
from engine.progress import Progress, set_up_logging
from latency.config import LatencyConfig, latency_part
from latency.measure import measure_space
from latency.table import prepare_table_file
from supernet.space import Space


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, help="YAML file with a `space` section")
    parser.add_argument("--out", type=Path, required=True, help="the table to write, e.g. tables/imagenet_cpu.yaml")
    parser.add_argument("--seed", type=int, default=0, help="of the random order of ops")
    parser.add_argument("overrides", nargs="*", help="key=value, e.g. measure.threads=4 or space.input_size=192")
    args = parser.parse_intermixed_args()
    set_up_logging()
    data = latency_part(load_config(args.config, args.overrides))
    config = validate(LatencyConfig, data, str(args.config))
    prepare_table_file(args.out)
    total = config.measure.warmup_rounds + config.measure.rounds
    with Progress(total, 0, "measure") as progress:
        table = measure_space(
            Space(config.space), config.measure, seed=args.seed, progress=lambda done, _: progress.update(done)
        )
    table.save(args.out)
    print(f"{args.out}: {len(table.entries)} ops on {table.device.name}, {table.runtime.name} {table.runtime.version}")


if __name__ == "__main__":
    run_door(main)
