"""Makes a latency table of another device, such as a Raspberry Pi, a Jetson, a server or a phone.

    proxyless-nas kit export imagenet_cpu --out kit measure.runtime=onnxruntime
    scp -r kit board:
    ssh board "python3 -m venv env && env/bin/pip install numpy onnxruntime && env/bin/python kit/bench.py"
    scp board:kit/results.json .
    proxyless-nas kit import kit results.json --out tables/board.yaml

For a phone, instead of the three lines in the middle:

    proxyless-nas kit adb kit --benchmark benchmark_model --out results.json

A kit is for one runtime: measure.runtime=onnxruntime, or litert (needed for phones). The table is calibrated and
verified on networks timed on the device. A search reads it with `measure: {device: external}`. `import` ends with
status 3 where the table is written, but its error is above the 10 % that searches accept.
"""

import argparse

from engine.arguments import add_allow_modules, path_argument
from proxyless_nas.commands.base import Command, add_config, add_overrides, config_path, table_argument

EXPORT = """Writes a kit: the models to time on the device, and the program that times them:

    proxyless-nas kit export imagenet_cpu --out kit measure.runtime=onnxruntime
"""
ADB = """Times a kit on a phone that is connected by adb:

    proxyless-nas kit adb kit --benchmark benchmark_model --out results.json
"""
IMPORT = """Makes a latency table of a kit's results:

    proxyless-nas kit import kit results.json --out tables/board.yaml

Exit status 3: the table is written, but its error is above the 10 % that searches accept.
"""


def _export_arguments(parser: argparse.ArgumentParser) -> None:
    add_config(parser, "YAML file with `space` and `measure` sections")
    parser.add_argument("--out", type=path_argument, required=True, help="folder for the kit; must not exist yet")
    parser.add_argument(
        "--verify",
        type=int,
        default=40,
        metavar="N",
        help="networks on which the table's error is measured; default: 40",
    )
    parser.add_argument(
        "--isolated", action="store_true", help="time each op alone, not inside networks (always so with litert)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the networks")
    add_overrides(parser, "measure.threads=4")


def _adb_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kit", type=path_argument, help="folder that `kit export` has written")
    parser.add_argument(
        "--benchmark", type=path_argument, required=True, help="LiteRT's benchmark_model program for the phone"
    )
    parser.add_argument("--out", type=path_argument, required=True, help="the file to write, e.g. results.json")
    parser.add_argument("--adb", default="adb", help="the adb program")
    parser.add_argument("--serial", help="serial number of the phone, if several are connected")


def _import_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kit", type=path_argument, help="folder that `kit export` has written")
    parser.add_argument("results", type=path_argument, help="results.json from the device")
    parser.add_argument("--out", type=table_argument, required=True, help="the table to write")
    add_allow_modules(parser, "the kit's manifest")


def _export(args: argparse.Namespace) -> None:
    from engine.progress import Stages, set_up_logging
    from latency.kit import export_kit
    from latency.summary import print_export

    set_up_logging()
    with Stages() as report:
        kit = export_kit(
            config_path(args),
            args.out,
            overrides=args.overrides,
            seed=args.seed,
            verify=args.verify,
            isolated=args.isolated,
            report=report,
        )
    print_export(kit)


def _adb(args: argparse.Namespace) -> None:
    from engine.progress import Stages, set_up_logging
    from latency.adb import time_to_file
    from latency.summary import print_how_to_import

    set_up_logging()
    with Stages() as report:
        time_to_file(args.kit, args.out, benchmark=args.benchmark, adb=args.adb, serial=args.serial, report=report)
    print_how_to_import(args.kit, args.out)


def _import(args: argparse.Namespace) -> int:
    from engine.progress import set_up_logging
    from latency.kit import import_to_file
    from latency.summary import exit_status, print_how_to_search, print_report

    set_up_logging()
    table = import_to_file(args.kit, args.results, args.out, args.allow_modules)
    print_report(table, args.out)
    print_how_to_search(args.out)
    return exit_status(table)


COMMANDS = {
    "export": Command(EXPORT, _export_arguments, _export),
    "adb": Command(ADB, _adb_arguments, _adb),
    "import": Command(IMPORT, _import_arguments, _import),
}
