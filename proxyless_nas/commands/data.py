"""Shows a set of images before it is used, and packs it into few files:

    proxyless-nas data show /images/flowers --picture samples.png
    proxyless-nas data pack /images/flowers --out /images/flowers_packed

A folder with or without a split, a CSV list, or the section `data` of a configuration.
"""

import argparse
import re
import shlex

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
        help="a folder of images or shards, a CSV list, or a configuration of a search or retraining, by file or name",
    )
    parser.add_argument("--picture", type=path_argument, help="a PNG file to write, with some images of each class")
    parser.add_argument("--quick", action="store_true", help="read the headers alone; damage and copies are not found")
    add_overrides(parser, "data.test=0.2")


def _show(args: argparse.Namespace) -> None:
    from engine.data.layout import holds_shards
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
    if args.source.is_dir() and not holds_shards(args.source):  # a configuration names its settings itself
        held_out = [] if "test" in found.counts else ["data.test=0.2"]
        words = [f"data.root={args.source}", *args.overrides, *held_out, f"space.classes={len(found.class_names)}"]
        print(f"to search with these photographs: proxyless-nas check own_images_cpu {shlex.join(words)}")


PACK = """Packs image files into a few large files, which give the same batches as the folder:

    proxyless-nas data pack /images/flowers --out /images/flowers_packed
    proxyless-nas data pack /images/flowers --out /images/flowers_packed data.test=0.2

Writes tar files with an index into --out, which must not exist yet. The files are packed as they are. A search or a
retraining reads the shards with `data: {name: shards, root: /images/flowers_packed}`; WebDataset reads them too
(000017.jpg, 000017.cls).
"""
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def _size(text: str) -> int:
    """Returns the bytes that a text such as 256M means."""
    match = re.fullmatch(r"(\d{1,9})([KMG]?)", text.upper())
    if not match or not int(match[1]):
        raise argparse.ArgumentTypeError(f"got '{text[:80]}', expected a size such as 256M or 1G")
    return int(match[1]) * _UNITS[match[2]]


def _pack_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", type=path_argument, help="a folder of images, a CSV list, or a configuration, by file or name"
    )
    parser.add_argument("--out", type=path_argument, required=True, help="folder for the shards; must not exist yet")
    parser.add_argument("--size", type=_size, default="256M", help="the most bytes of a shard, e.g. 1G (default: 256M)")
    add_overrides(parser, "data.test=0.2")


def _pack(args: argparse.Namespace) -> None:
    from engine.data import open_images
    from engine.data.shards import pack
    from engine.progress import Stages, set_up_logging
    from engine.quantities import quantity
    from proxyless_nas.images import data_config
    from supernet import user_modules

    set_up_logging()
    config, _ = data_config(args.source, args.overrides)
    images = open_images(config, input_size=1, channels=3, classes=None, call=user_modules.call)
    with Stages() as report:
        packed = pack(images, args.out, size=args.size, report=report)
    print(f"{packed.images} images in {packed.shards} shards, {quantity(packed.bytes, 'bytes', 3)}: {packed.folder}")
    print(f"to read them: data.name=shards data.root={packed.folder}")


COMMANDS = {"show": Command(SHOW, _show_arguments, _show), "pack": Command(PACK, _pack_arguments, _pack)}
