"""Classifies images with a retrained or a published network:

    proxyless-nas predict runs/r photo.jpg other.png
    proxyless-nas predict proxyless_cpu photo.jpg
    proxyless-nas predict runs/r/checkpoints/step-000001000-1a2b3c4d.pt photo.jpg --top 3

Prints the likeliest classes of each image with their probabilities. The images are resized, cropped and normalised as
in the evaluation of the retraining, or as the published network's authors do.
"""

import argparse

from engine.arguments import add_allow_modules, path_argument
from proxyless_nas.commands.base import Command, at_least


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "run",
        type=path_argument,
        metavar="network",
        help="folder of a retraining, a .pt file of its checkpoints/, the name of a published network, whose weights "
        "are downloaded once, or a trained int8 network (.pkl)",
    )
    parser.add_argument("images", type=path_argument, nargs="*", help="image files")
    arch_help = "a published network or .pkl file; then the first word is an image, too"
    parser.add_argument("--arch", metavar="NAME", help=arch_help)
    parser.add_argument(
        "--top", type=at_least(1), default=5, metavar="N", help="classes to print for each image; default: 5"
    )
    add_allow_modules(parser, "the checkpoint")


def _run(args: argparse.Namespace) -> None:
    from engine.errors import UserError
    from engine.progress import Stages, set_up_logging
    from proxyless_nas.predictions import predict

    set_up_logging()
    if args.arch:
        _check(args.arch)
    elif not args.images:
        raise UserError("images", "none is given", "image files after the network")
    network, images = (args.arch, [args.run, *args.images]) if args.arch else (args.run, args.images)
    with Stages() as report:
        predictions = predict(network, images, allow_modules=args.allow_modules, report=report)
    for prediction in predictions:
        print(prediction.in_words(args.top))


def _check(name: str) -> None:
    """Raises UserError or ConfigError if --arch names nothing that comes with its weights."""
    from engine.errors import ConfigError, UserError
    from published.networks import named
    from published.trained import comes_with_weights

    if comes_with_weights(name):
        return
    if path_argument(name).exists():
        expected = "the name of a published network, or a trained int8 network (.pkl)"
        remedy = "give a checkpoint in place of a run, as in: proxyless-nas predict checkpoint.pt photo.jpg"
        raise UserError("--arch", f"got {name}, which has no weights", expected, remedy)
    try:
        named(name)
    except ConfigError as error:
        raise error.at("--arch") from None


COMMAND = Command(__doc__, _arguments, _run)
