"""A latency table of a device that has nothing of ours: a Raspberry Pi, a Jetson, a server, a phone.

    python scripts/device_kit.py export configs/search/imagenet_cpu.yaml --out kit measure.runtime=onnxruntime
    scp -r kit board:
    ssh board "python3 -m venv env && env/bin/pip install numpy onnxruntime && env/bin/python kit/bench.py"
    scp board:kit/results.json .
    python scripts/device_kit.py import kit results.json --out tables/board.yaml

For a phone, instead of the three lines in the middle:

    python scripts/device_kit.py adb kit --benchmark benchmark_model --out results.json

A kit is for one runtime: measure.runtime=onnxruntime, or litert (needed for phones). The table is calibrated and
verified on networks timed on the device. A search reads it with `measure: {device: external}`. `import` ends with
status 3 where the table is written, but its error is above the 10 % that searches accept.
"""

import argparse
import sys

from engine.arguments import add_allow_modules, parsed, parser_of, path_argument
from engine.errors import run_door


def main() -> int:
    commands = {"export": (_export_parser, _export), "adb": (_adb_parser, _adb), "import": (_import_parser, _import)}
    parser = parser_of(__doc__)
    parser.add_argument("command", choices=commands, help="each has its own --help")
    command = parser.parse_args(sys.argv[1:2]).command
    # not argparse's subparsers: they cannot take `key=value` after an option
    of_command = parser_of(None, f"device_kit.py {command}")
    describe, run = commands[command]
    describe(of_command)
    args = parsed(of_command, sys.argv[2:])

    from engine.progress import set_up_logging

    set_up_logging()
    return run(args) or 0


def _export_parser(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", type=path_argument, help="YAML file with `space` and `measure` sections")
    parser.add_argument("--out", type=path_argument, required=True, help="folder for the kit; must not exist yet")
    parser.add_argument("--verify", type=int, default=40, metavar="N", help="networks that the error is measured on")
    parser.add_argument("--isolated", action="store_true", help="time ops alone (always so with litert)")
    parser.add_argument("--seed", type=int, default=0, help="of the networks")
    parser.add_argument("overrides", nargs="*", help="key=value, e.g. measure.threads=4")


def _adb_parser(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kit", type=path_argument)
    parser.add_argument(
        "--benchmark", type=path_argument, required=True, help="LiteRT's benchmark_model program for the phone"
    )
    parser.add_argument("--out", type=path_argument, required=True, help="results.json")
    parser.add_argument("--adb", default="adb", help="the adb program")
    parser.add_argument("--serial", help="of the phone, where several are connected")


def _import_parser(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kit", type=path_argument)
    parser.add_argument("results", type=path_argument, help="results.json from the device")
    parser.add_argument("--out", type=path_argument, required=True, help="the table to write")
    add_allow_modules(parser, "the kit's manifest")


def _export(args: argparse.Namespace) -> None:
    from engine.progress import Stages
    from latency.kit import export_kit
    from latency.summary import print_export

    with Stages() as report:
        kit = export_kit(
            args.config,
            args.out,
            overrides=args.overrides,
            seed=args.seed,
            verify=args.verify,
            isolated=args.isolated,
            report=report,
        )
    print_export(kit)


def _adb(args: argparse.Namespace) -> None:
    from engine.progress import Stages
    from latency.adb import time_to_file
    from latency.summary import print_how_to_import

    with Stages() as report:
        time_to_file(args.kit, args.out, benchmark=args.benchmark, adb=args.adb, serial=args.serial, report=report)
    print_how_to_import(args.kit, args.out)


def _import(args: argparse.Namespace) -> int:
    from latency.kit import import_to_file
    from latency.summary import exit_status, print_how_to_search, print_report

    table = import_to_file(args.kit, args.results, args.out, args.allow_modules)
    print_report(table, args.out)
    print_how_to_search(args.out)
    return exit_status(table)


if __name__ == "__main__":
    run_door(main)
