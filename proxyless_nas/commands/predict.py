"""Classifies images with a retrained or a published network:

    proxyless-nas predict runs/r photo.jpg other.png
    proxyless-nas predict --arch proxyless_cpu photo.jpg
    proxyless-nas predict runs/r/checkpoints/step-000001000-1a2b3c4d.pt photo.jpg --top 3

Prints the likeliest classes of each image with their probabilities. The images are resized, cropped and normalised as
in the evaluation of the retraining, or as the published network's authors do.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from engine.arguments import add_allow_modules, path_argument
from proxyless_nas.commands.base import Command, at_least

if TYPE_CHECKING:
    from retrain.predict import Prediction


def _arguments(parser: argparse.ArgumentParser) -> None:
    run_help = "folder of a retraining, or a .pt file of its checkpoints/; with --arch the first image"
    parser.add_argument("run", type=path_argument, help=run_help)
    parser.add_argument("images", type=path_argument, nargs="*", help="image files")
    arch_help = "a published network, with its published weights, or a trained int8 network (.pkl)"
    parser.add_argument("--arch", metavar="NAME", help=arch_help)
    parser.add_argument("--top", type=at_least(1), default=5, metavar="N", help="classes to print for each image")
    add_allow_modules(parser, "the checkpoint")


def _run(args: argparse.Namespace) -> None:
    from engine.errors import UserError
    from engine.progress import set_up_logging
    from retrain.predict import predict

    set_up_logging()
    if args.arch:
        predictions = _published(args.arch, [args.run, *args.images])
    elif args.images:
        predictions = predict(args.run, args.images, allow_modules=args.allow_modules)
    else:
        raise UserError("images", "none is given", "image files after the run")
    for prediction in predictions:
        print(prediction.in_words(args.top))


def _published(name: str, images: "list[Path]") -> "list[Prediction]":
    """Classifies images with a network that comes with its weights."""
    from engine.data.pictures import check_pictures
    from engine.errors import ConfigError, UserError
    from proxyless_nas.sources import trained_network
    from published.networks import named
    from published.trained import comes_with_weights
    from retrain.predict import classify

    if not comes_with_weights(name):
        if path_argument(name).exists():
            expected = "the name of a published network, or a trained int8 network (.pkl)"
            remedy = "give a checkpoint in place of a run, as in: proxyless-nas predict checkpoint.pt photo.jpg"
            raise UserError("--arch", f"got {name}, which has no weights", expected, remedy)
        try:
            named(name)
        except ConfigError as error:
            raise error.at("--arch") from None
    check_pictures(images)  # before weights are downloaded
    found = trained_network(name)
    return classify(found.as_stored, found.preprocessing, found.classes, images)


COMMAND = Command(__doc__, _arguments, _run)
