"""Measures a latency table, and checks how well it predicts:

    python scripts/measure_latency.py configs/search/imagenet_cpu.yaml --out tables/imagenet_cpu.yaml --verify 40
    python scripts/measure_latency.py configs/search/imagenet_cpu.yaml --out tables/imagenet_cpu.yaml --recalibrate

CONFIG is any YAML with a `space` section: a search config makes its own table, configs/latency/ has smaller files.
The section `measure` has the device, runtime, threads, batch and precision.

--verify times fresh whole networks, writes the table's error into it and draws TABLE.png. A table that exists already
is kept as it is and verified. Without --verify, it is measured anew if it is of the same space, device and settings;
any other file is refused and left alone. --recalibrate keeps the measured entries and refits their corrections from
20 networks timed now; an earlier verification is dropped, unless --verify asks for a new one.

Exit status 3: the table is written, but its error is above the 10 % that searches accept.
"""

import shlex
import time

from engine.arguments import parsed, parser_of, path_argument
from engine.errors import explain, run_door


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument("config", type=path_argument, help="YAML file with a `space` section")
    parser.add_argument("--out", type=path_argument, required=True, help="the table, e.g. tables/imagenet_cpu.yaml")
    parser.add_argument("--verify", type=int, default=0, metavar="N", help="time N fresh networks, e.g. 40")
    parser.add_argument("--recalibrate", action="store_true", help="refit the corrections of the table that is there")
    parser.add_argument("--seed", type=int, help="of networks and their order; default: 0, or the time for old tables")
    parser.add_argument("overrides", nargs="*", help="key=value, e.g. measure.threads=4 or measure.runtime=onnxruntime")
    args = parsed(parser)

    import torch

    from engine.progress import Stages, set_up_logging
    from latency.config import LatencyConfig
    from latency.existing import Identity, free_file, refuse_to_replace
    from latency.measure import measure_table, recalibrate_table, verify_table
    from latency.summary import exit_status, print_report
    from latency.table import LatencyTable, TableError, prepare_table_file
    from latency.verification import check_count
    from supernet.own_candidates import check_running
    from supernet.space import Space

    set_up_logging()
    check_count(args.verify)
    config = LatencyConfig.read(args.config, args.overrides)
    space, measure = Space(config.space), config.measure
    if measure.device == "cpu" or (measure.device == "cuda" and torch.cuda.is_available()):
        with explain(f"{args.config}: space.candidate_modules"):
            check_running(space.all_layers, torch.device(measure.device))
    prepare_table_file(args.out)
    keep = args.recalibrate or (args.verify and args.out.exists())
    if not keep:
        refuse_to_replace(args.out, Identity.of_measuring(space, measure))
    if keep and not args.out.exists():
        raise TableError(f"--recalibrate: no table {args.out}; measure one first, without --recalibrate")
    with Stages() as progress:
        if not keep:
            table = measure_table(space, measure, seed=args.seed or 0, verify=args.verify, progress=progress)
        else:
            seed = int(time.time()) if args.seed is None else args.seed  # other networks than any time before
            table = LatencyTable.load(args.out)
            again = ["python", "scripts/measure_latency.py", str(args.config), "--out", str(free_file(args.out))]
            remedy = f"make another table: {shlex.join([*again, *args.overrides])}"
            table.check(space, measure, str(args.out), remedy)
            if args.recalibrate:
                table = recalibrate_table(table, space, measure, seed=seed, progress=progress)
                table.save(args.out)
            if args.verify:
                table = verify_table(table, space, measure, args.verify, seed=seed, progress=progress)
    table.save(args.out)
    print_report(table, args.out)
    return exit_status(table)


if __name__ == "__main__":
    run_door(main)
