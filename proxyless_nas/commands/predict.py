"""Classifies images with a retrained network:

    proxyless-nas predict runs/r photo.jpg other.png
    proxyless-nas predict runs/r/checkpoints/step-000001000-1a2b3c4d.pt photo.jpg --top 3

Prints the likeliest classes of each image with their probabilities. The images are resized, cropped and normalised as
in the evaluation of the retraining.
"""

import argparse

from engine.arguments import add_allow_modules, path_argument
from proxyless_nas.commands.base import Command, at_least


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=path_argument, help="folder of a retraining, or a .pt file of its checkpoints/")
    parser.add_argument("images", type=path_argument, nargs="+", help="image files")
    parser.add_argument("--top", type=at_least(1), default=5, metavar="N", help="classes to print for each image")
    add_allow_modules(parser, "the checkpoint")


def _run(args: argparse.Namespace) -> None:
    from engine.progress import set_up_logging
    from retrain.predict import predict

    set_up_logging()
    for prediction in predict(args.run, args.images, allow_modules=args.allow_modules):
        pairs = list(zip(prediction.classes, prediction.probabilities, strict=True))[: args.top]
        print(f"{prediction.path}: {', '.join(f'{name} {100 * p:.1f} %' for name, p in pairs)}")


COMMAND = Command(__doc__, _arguments, _run)
