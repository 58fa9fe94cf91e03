"""Checks a search before it runs, in seconds:

    proxyless-nas check imagenet_cpu --out runs/cpu data.root=/images

Prints one line for each condition: ok, warn, or FAIL with what to do. Writes nothing. Exit status 2 if any fails.
"""

import argparse

from engine.arguments import path_argument
from proxyless_nas.commands.base import Command, add_config, add_overrides, config_path


def _arguments(parser: argparse.ArgumentParser) -> None:
    add_config(parser, "YAML file, see configs/search/")
    parser.add_argument("--out", type=path_argument, help="folder for results: is there room for checkpoints?")
    add_overrides(parser, "search.epochs=10, as for `proxyless-nas search`")


def _run(args: argparse.Namespace) -> int:
    from engine.progress import Stages, set_up_logging
    from search.check import check_search

    set_up_logging()
    with Stages() as stages:
        checks = check_search(config_path(args), args.overrides, args.out, stages)
    for check in checks:
        print(check)
    return 2 if any(check.level == "FAIL" for check in checks) else 0


COMMAND = Command(__doc__, _arguments, _run)
