"""Evaluates a network with a checkpoint, of its retraining or of a search, on the test set:

    proxyless-nas evaluate imagenet --checkpoint runs/r/checkpoints/X.pt data.root=/images
    proxyless-nas evaluate imagenet --checkpoint runs/cpu/checkpoints/X.pt --architecture runs/cpu/architecture.json

Prints top-1, top-5 and the loss. With a search's checkpoint, BN statistics are first collected on training images.
"""

import argparse

from engine.arguments import add_allow_modules, path_argument
from proxyless_nas.commands.base import Command, add_config, add_overrides, config_path


def _arguments(parser: argparse.ArgumentParser) -> None:
    add_config(parser, "YAML file, see configs/retrain/, of which the sections data and run are used")
    parser.add_argument("--architecture", type=path_argument, help="architecture.json; default: the checkpoint's own")
    parser.add_argument("--checkpoint", type=path_argument, required=True, help="a .pt file of a run's checkpoints/")
    add_overrides(parser, "data.root=/images")
    add_allow_modules(parser, "the architecture's file or the checkpoint")


def _run(args: argparse.Namespace) -> None:
    from engine.progress import set_up_logging
    from engine.quantities import accuracy_text
    from retrain.evaluation import evaluate_checkpoint

    set_up_logging()
    architecture, test = evaluate_checkpoint(
        config_path(args), args.architecture, args.checkpoint, args.allow_modules, overrides=args.overrides
    )
    figures = accuracy_text(test.top1, test.top5, test.loss, architecture.classes)
    print(f"test set, {test.images} images: {figures}")


COMMAND = Command(__doc__, _arguments, _run)
