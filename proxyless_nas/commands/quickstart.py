"""Runs the whole job in minutes, on bundled images:

    proxyless-nas quickstart --out runs/quickstart

Measures a latency table on this CPU (again where other work disturbs it), searches at 40 % of the reachable range,
derives, retrains from scratch, and prints the derived network beside random networks of the same predicted latency that
were retrained alike, all timed in turn. It ends with what these results show, and what they do not show, and writes
report.html, one page with all of it.
Everything is written below --out. The same command again goes on where it was stopped, even killed; once it has ended,
it only prints the results again, so that another run needs another --out. Exit status 3 if the derived network misses
its target; 0 if it meets it or the machine is too busy to decide.
"""

import argparse
from pathlib import Path

from engine.arguments import path_argument
from proxyless_nas.commands.base import EXIT_MISSED, Command, at_least, going_on, say_at_once


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=path_argument, default=Path("runs/quickstart"), help="folder for results")
    parser.add_argument("--seed", type=int, default=0, help="seed of the whole job; default: 0")
    parser.add_argument(
        "--baselines",
        type=at_least(0),
        default=10,
        help="random networks to retrain beside the derived one; default: 10",
    )


def _run(args: argparse.Namespace) -> int:
    from engine.progress import set_up_logging
    from proxyless_nas.quickstart import quickstart

    set_up_logging()
    with going_on():
        met = quickstart(args.out, args.seed, args.baselines, say=say_at_once)["met"]
    return EXIT_MISSED if met is False else 0  # on a busy machine it stays open, and a warning was printed


COMMAND = Command(__doc__, _arguments, _run)
