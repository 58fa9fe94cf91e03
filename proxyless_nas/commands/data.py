"""Shows a set of images before it is used:

    proxyless-nas data show /images/flowers --picture samples.png

A folder with or without a split, a CSV list, or the section `data` of a configuration.
"""

import argparse

from engine.arguments import path_argument
from proxyless_nas.commands.base import Command, add_overrides

SHOW = """Shows what a set of images has: counts, sizes, unreadable files, copies, samples:

    proxyless-nas data show /images/flowers --picture samples.png
    proxyless-nas data show /images/flowers data.test=0.2
    proxyless-nas data show flowers.yaml

Prints the number of images of each class in each part and what each part is for; what was left out and why; pixels,
formats and kinds of pixels; the files that cannot be read; and files of the same content, above all those that both
train and test. Every file is read to its end, as in an epoch of training; --quick reads the headers alone.
"""


def _show_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        type=path_argument,
        help="a folder of images, a CSV list, or a configuration of a search or a retraining, by file or name",
    )
    parser.add_argument("--picture", type=path_argument, help="a PNG file to write, with some images of each class")
    parser.add_argument("--quick", action="store_true", help="read the headers alone; damage and copies are not found")
    add_overrides(parser, "data.test=0.2")


def _show(args: argparse.Namespace) -> None:
    from engine.progress import Stages, set_up_logging
    from proxyless_nas.images import show_data
    from proxyless_nas.views import picture_path

    if args.picture:
        picture_path(args.picture)  # before the work
    set_up_logging()
    with Stages() as stages:
        found = show_data(args.source, quick=args.quick, overrides=args.overrides, report=stages)
    print(found)
    if args.picture:
        found.save(args.picture)
        print(f"picture: {args.picture}")


COMMANDS = {"show": Command(SHOW, _show_arguments, _show)}
