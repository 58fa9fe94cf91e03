"""Writes one page about a run: limits, network, probabilities, curves, table, retraining, settings, hashes:

    proxyless-nas report runs/cpu --out report.html
    proxyless-nas report runs/cpu runs/retrained --exported exported --out report.html
    proxyless-nas report runs/quickstart

The page is one HTML file for any browser. It loads nothing, needs no JavaScript, and the same run gives the same bytes.
A run may still be going on. A retraining's search is found by itself if its architecture.json came from there.
"""

import argparse
from pathlib import Path

from engine.arguments import add_allow_modules, path_argument
from proxyless_nas.commands.base import Command


def _arguments(parser: argparse.ArgumentParser) -> None:
    run_help = "folder of a search, a retraining, a whole job, a quick start or a sweep"
    parser.add_argument("run", type=path_argument, help=run_help)
    parser.add_argument("other", type=path_argument, nargs="?", help="the retraining of that search, or the reverse")
    parser.add_argument(
        "--out", type=path_argument, default=Path("report.html"), help="file to write; default: %(default)s"
    )
    parser.add_argument("--exported", type=path_argument, metavar="DIR", help="files of the network, by export --out")
    add_allow_modules(parser, "the run")


def _run(args: argparse.Namespace) -> None:
    from engine.progress import set_up_logging
    from report.page import report

    set_up_logging()
    print(report(args.run, args.other, exported=args.exported, out=args.out, allow_modules=args.allow_modules))


COMMAND = Command(__doc__, _arguments, _run)
