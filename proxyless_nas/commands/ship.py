"""Runs a whole job, from the latency table to the files of runtimes:

    proxyless-nas ship ship/digits_cpu --out runs/shipped
    proxyless-nas ship own.yaml --out runs/own data.root=/images
    proxyless-nas ship --verify runs/shipped

CONFIG is a YAML file that names the configurations of a search and of a retraining (docs/ship.md). The stages are
table, search, derive, retrain, evaluate, export, int8, time and report, in this order. Each prints a line, and the path
of the report is the last one. The same command again goes on where it was stopped, even killed, and repeats the stages
that a changed setting or file concerns.

--verify computes every recorded number again from what the stages have made, and prints both.

Exit status 3 if the derived network misses a limit; 1 if --verify finds a number that differs.
"""

import argparse

from engine.arguments import path_argument
from proxyless_nas.commands.base import EXIT_MISSED, Command, add_overrides, going_on, say_at_once

EXIT_DIFFERS = 1
NAMES = ("table", "search", "derive", "retrain", "evaluate", "export", "int8", "time", "report")
"""The names of the stages: proxyless_nas/shipping/stages.py has them all."""


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "config", type=path_argument, nargs="?", help="YAML file, or a name that `proxyless-nas configs` lists"
    )
    parser.add_argument("--out", type=path_argument, help="folder for results")
    parser.add_argument("--until", choices=NAMES, help="the last stage to run")
    parser.add_argument("--verify", type=path_argument, metavar="DIR", help="compute the numbers of this job again")
    parser.add_argument(
        "--timings", action="store_true", help="with --verify: time the derived network and the files again, too"
    )
    add_overrides(parser, "search.search.epochs=10 or data.root=/images")


def _run(args: argparse.Namespace) -> int:
    from engine.errors import UserError
    from engine.progress import set_up_logging
    from proxyless_nas.shipping.job import ship, verify_ship

    set_up_logging()
    if args.verify is not None:
        if args.config is not None or args.out is not None or args.until is not None:
            raise UserError("--verify", "goes with --timings alone", remedy="leave out CONFIG, --out and --until")
        counts = {True: 0, False: 0}

        def show(one: object) -> None:
            counts[one.same] += 1  # type: ignore[attr-defined]
            print(one, flush=True)

        good = verify_ship(args.verify, timings=args.timings, say=show)
        print(f"{counts[True]} of {sum(counts.values())} are the same" + ("" if good else f"; {counts[False]} DIFFER"))
        return 0 if good else EXIT_DIFFERS
    for name, value in (("CONFIG", args.config), ("--out", args.out)):
        if value is None:
            raise UserError(name, "is missing", "a configuration and --out DIR, or --verify DIR")
    if args.timings:
        raise UserError("--timings", "goes with --verify DIR")
    with going_on():
        done = ship(args.config, args.out, until=args.until, overrides=args.overrides, say=say_at_once)
    if done.report is not None and args.until in (None, "report"):
        print(done.report)
    return EXIT_MISSED if done.met is False else 0


COMMAND = Command(__doc__, _arguments, _run)
