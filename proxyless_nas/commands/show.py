"""Prints a network layer by layer: op, shapes, parameters, MACs, predicted milliseconds, and the sums:

    proxyless-nas show runs/cpu
    proxyless-nas show proxyless_cpu
    proxyless-nas show architecture.json --table tables/imagenet_cpu.yaml --picture layers.png

A search's folder has its own latency tables, and its picture is that of the path probabilities, with the derived
network framed. The picture of a single architecture shows what each layer costs.
"""

import argparse

from engine.arguments import add_allow_modules, path_argument
from proxyless_nas.commands.base import Command


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", type=path_argument, help="an architecture.json, net.config, published network, or folder of a run"
    )
    parser.add_argument("--table", type=path_argument, help="a latency table, for the milliseconds of each layer")
    parser.add_argument("--picture", type=path_argument, help="a PNG file to write")
    add_allow_modules(parser, "the architecture's file or the run's config.yaml")


def _run(args: argparse.Namespace) -> None:
    from engine.progress import set_up_logging
    from proxyless_nas.views import picture_path, show

    if args.picture:
        picture_path(args.picture)  # before the work
    set_up_logging()
    shown = show(args.source, args.table, allow_modules=args.allow_modules)
    print(shown)
    if args.picture:
        shown.save(args.picture)
        print(f"picture: {args.picture}")


COMMAND = Command(__doc__, _arguments, _run)
