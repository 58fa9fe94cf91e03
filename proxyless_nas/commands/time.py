"""Times exported files in their runtimes, and compares them with a latency table:

    proxyless-nas time exported/net.onnx exported/net.xml --table tables/cpu.yaml
    proxyless-nas time exported/net.onnx --table tables/board.yaml --kit kit
    proxyless-nas time exported/net.onnx --table tables/board.yaml --kit kit --results results.json

All files are timed in turn, with a reference if the table is of the same runtime and device. The second line writes a
kit that times the files on another device, by its bench.py or by `proxyless-nas kit adb`, and the third one reads the
results. The figures go to timings.json beside the files. Exit status 3: a file is slower or faster than predicted.
"""

import argparse

from engine.arguments import add_allow_modules, path_argument
from proxyless_nas.commands.base import EXIT_MISSED, Command, at_least


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", type=path_argument, nargs="+", metavar="FILE", help="files of `proxyless-nas export`")
    parser.add_argument("--table", type=path_argument, help="latency table that predicts the files' networks")
    parser.add_argument("--threads", type=at_least(1), help="CPU threads; default: the table's, or 1")
    parser.add_argument(
        "--batch", type=at_least(1), help="images at once, for files that take any number; default: the table's, or 1"
    )
    parser.add_argument(
        "--rounds", type=at_least(2), default=15, help="rounds in which each file is timed; default: 15"
    )
    parser.add_argument("--layers", action="store_true", help="print the time of each layer, if the runtime reports it")
    parser.add_argument("--kit", type=path_argument, help="folder of a kit that times the files on another device")
    parser.add_argument("--results", type=path_argument, help="results.json of that kit, from the device")
    add_allow_modules(parser, "the architecture in export.json")


def _run(args: argparse.Namespace) -> int | None:
    from engine.progress import Stages, set_up_logging
    from export.timings import layer_table
    from latency.kit import ExportedKit
    from latency.summary import print_export
    from proxyless_nas.verbs import time_files

    set_up_logging()
    with Stages() as report:
        timed = time_files(
            args.files,
            args.table,
            threads=args.threads,
            batch=args.batch,
            rounds=args.rounds,
            kit=args.kit,
            results=args.results,
            allow_modules=args.allow_modules,
            report=report,
        )
    if isinstance(timed, ExportedKit):
        print_export(timed)
        return None
    for file in timed:
        print(file)
        if args.layers:
            print(layer_table(file))
    promised = [file.prediction.verdict for file in timed if file.prediction]
    return EXIT_MISSED if {"slower", "faster"} & set(promised) else None


COMMAND = Command(__doc__, _arguments, _run)
