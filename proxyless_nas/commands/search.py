"""Searches an architecture:

    proxyless-nas search imagenet_cpu --out runs/cpu data.root=/images
    proxyless-nas search my_search.yaml --out runs/mine
    proxyless-nas search my_search.yaml --out runs/mine --resume

Writes config.yaml (resolved), curves (metrics.jsonl and, for TensorBoard, an event file), checkpoints/,
architecture.json and result.json into --out. Exit status 3 if the network misses a limit.
Several processes or machines: torchrun --nproc-per-node 8 -m proxyless_nas search ... (docs/cluster.md)
"""

import argparse

from engine.arguments import path_argument
from engine.errors import Action
from proxyless_nas.commands.base import EXIT_MISSED, Command, add_config, add_overrides, config_path


def _arguments(parser: argparse.ArgumentParser) -> None:
    add_config(parser, "YAML file, see configs/search/")
    parser.add_argument("--out", type=path_argument, required=True, help="folder for results")
    parser.add_argument("--resume", action="store_true", help="continue the search in --out")
    add_overrides(parser, "search.epochs=10")


def _run(args: argparse.Namespace) -> int:
    from engine.job import open_group
    from engine.progress import set_up_logging
    from search.loop import run_search
    from search.summary import print_result

    with open_group() as group:
        set_up_logging(group)
        result = run_search(config_path(args), args.out, resume=args.resume, overrides=args.overrides, group=group)
        if group.first:
            print_result(result)
            training = Action("retrain", ("CONFIG", "--architecture", str(args.out), "--out", "FOLDER"))
            print(f"written: {args.out / 'architecture.json'}; to train it: {training}")
    return 0 if result.measured.met else EXIT_MISSED


COMMAND = Command(__doc__, _arguments, _run, resumable=True)
