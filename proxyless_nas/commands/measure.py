"""Measures a latency table, and checks how well it predicts:

    proxyless-nas measure imagenet_cpu --out tables/imagenet_cpu.yaml --verify 40
    proxyless-nas measure imagenet_cpu --out tables/imagenet_cpu.yaml --recalibrate

CONFIG is any YAML with a `space` section: a search config makes its own table, configs/latency/ has smaller files.
The section `measure` has the device, runtime, threads, batch and precision.

--verify times whole networks that were not used before, writes the table's error into it and draws TABLE.png. A table
that exists already is kept as it is and verified. Without --verify, it is measured anew if it is of the same space,
device and settings; any other file is refused and left alone. --recalibrate keeps the measured entries and refits their
corrections from 20 networks timed now; an earlier verification is dropped, unless --verify asks for a new one.

Exit status 3: the table is written, but its error is above the 10 % that searches accept.
"""

import argparse

from proxyless_nas.commands.base import Command, add_config, add_overrides, config_path, table_argument


def _arguments(parser: argparse.ArgumentParser) -> None:
    add_config(parser, "YAML file with a `space` section")
    parser.add_argument("--out", type=table_argument, required=True, help="the table, e.g. tables/imagenet_cpu.yaml")
    parser.add_argument(
        "--verify", type=int, default=0, metavar="N", help="measure the table's error on N networks, e.g. 40"
    )
    parser.add_argument("--recalibrate", action="store_true", help="refit the corrections of an existing table")
    parser.add_argument(
        "--seed", type=int, help="seed by which networks are drawn; default: 0, for an existing table the time of day"
    )
    add_overrides(parser, "measure.threads=4 or measure.runtime=onnxruntime")


def _run(args: argparse.Namespace) -> int:
    from engine.progress import Stages, set_up_logging
    from latency.measure import measure_to_file
    from latency.summary import exit_status, print_report

    set_up_logging()
    with Stages() as report:
        table = measure_to_file(
            config_path(args),
            args.out,
            overrides=args.overrides,
            verify=args.verify,
            recalibrate=args.recalibrate,
            seed=args.seed,
            report=report,
        )
    print_report(table, args.out)
    return exit_status(table)


COMMAND = Command(__doc__, _arguments, _run)
