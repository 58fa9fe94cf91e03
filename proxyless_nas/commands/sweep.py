"""Searches with several configurations and seeds:

    proxyless-nas sweep imagenet_cpu imagenet_gpu --out runs/sweep --seeds 0 1 2
    proxyless-nas sweep imagenet_cpu imagenet_gpu --out runs/sweep --seeds 0 1 2 --resume

Each search has a folder and a log in --out. Searches with run.device: cuda take one visible GPU each, the others share
the CPU's cores, --jobs of them at a time. One that fails does not stop the others. Ctrl-C stops all; --resume continues
those that have begun and skips those that have ended. Writes sweep.json, sweep.md and sweep.png. Exit status: 1 if a
search failed, 3 if one misses a limit.
"""

import argparse

from engine.arguments import path_argument
from engine.errors import UserError
from proxyless_nas.commands.base import Command, at_least, seed_argument


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "configs", nargs="+", help="YAML files or shipped names, and key=value overrides for all of them"
    )
    parser.add_argument("--out", type=path_argument, required=True, help="folder for the searches and the summary")
    parser.add_argument(
        "--seeds",
        type=seed_argument,
        nargs="+",
        default=[],
        help="search with each seed; default: run.seed of each configuration",
    )
    parser.add_argument(
        "--jobs", type=at_least(1), default=1, help="searches that run at once on the CPU; default: 1. A GPU runs one"
    )
    parser.add_argument("--resume", action="store_true", help="continue the sweep in --out")


def _run(args: argparse.Namespace) -> int:
    from engine.files import as_path
    from engine.progress import set_up_logging
    from engine.shipped import located
    from search.many.sweep import run_sweep
    from search.summary import print_sweep

    configs = [located(as_path(text, "configs")) for text in args.configs if "=" not in text]
    overrides = [text for text in args.configs if "=" in text]
    if not configs:
        raise UserError("configs", "got overrides alone", "a YAML file")
    set_up_logging()
    sweep = run_sweep(configs, args.out, seeds=args.seeds, jobs=args.jobs, resume=args.resume, overrides=overrides)
    print_sweep(sweep, args.out)
    return sweep.exit_status


COMMAND = Command(__doc__, _arguments, _run, resumable=True)
