"""Derives architectures from a search, finished, stopped or still running:

    proxyless-nas derive runs/cpu                      # at the run's own bound
    proxyless-nas derive runs/cpu --at 30 35% 40       # one architecture per bound of the first limit
    proxyless-nas derive runs/cpu --at 10%..90%x9      # nine bounds, evenly spaced
    proxyless-nas derive runs/cpu --table tables/board.yaml --at 50%     # for another device, from the same search

Reads the newest good checkpoint; writes architecture-<bound>.json for each --at, without it architecture.json, or
architecture-derived.json where the search has ended and written its own. By the table alone: nothing is timed. Each
network is scored with the supernet's weights on the search's validation images; with --at, pareto.json and pareto.png
hold the accuracies over the costs. A bound that no architecture meets is named, the others are derived; the exit status
is 2.
"""

import argparse
import sys

from engine.arguments import add_allow_modules, path_argument
from proxyless_nas.commands.base import Command


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=path_argument, help="folder of a search")
    parser.add_argument(
        "--at",
        nargs="+",
        default=[],
        metavar="BOUND",
        help="30 (in ms), 50%% of the reachable range, or several: 10%%..90%%x9",
    )
    parser.add_argument(
        "--table", type=path_argument, help="derive for this table's device in place of the latency limits"
    )
    parser.add_argument(
        "--method",
        choices=["constrained", "argmax"],
        help="constrained: the likeliest network within the bound; argmax: the likeliest op of each layer; "
        "default: as the search says",
    )
    parser.add_argument("--no-score", action="store_true", help="derive only, in seconds and without the data")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="where to score; default: the search's run.device")
    add_allow_modules(parser, "the run's config.yaml")


def _run(args: argparse.Namespace) -> int:
    from engine.progress import Stages, set_up_logging
    from search.many.family import derive_family
    from search.summary import print_family

    set_up_logging()
    with Stages() as report:
        family = derive_family(
            args.run, args.at, args.method, table=args.table, scored=not args.no_score, device=args.device,
            report=report, allow_modules=args.allow_modules,
        )  # fmt: skip
    if family.members:
        print_family(family)
    for refused in family.refused:
        sys.stderr.write(f"error: {refused}\n")
    return 2 if family.refused else 0


COMMAND = Command(__doc__, _arguments, _run)
