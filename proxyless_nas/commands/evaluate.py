"""Evaluates a network on a set of images it was not trained on:

    proxyless-nas evaluate imagenet --checkpoint runs/r/checkpoints/X.pt data.root=/images
    proxyless-nas evaluate imagenet --checkpoint runs/cpu/checkpoints/X.pt --architecture runs/cpu/architecture.json
    proxyless-nas evaluate --arch proxyless_cpu --path /imagenet --per-class --confusions 10
    proxyless-nas evaluate --arch runs/r --path /imagenet
    proxyless-nas evaluate --arch runs/cpu/architecture.json --checkpoint runs/r/checkpoints/X.pt --path /imagenet

Prints top-1, top-5 and the loss, their 95 % intervals and the images per second. The network is a published one, which
comes with its weights, or one of a run. The images are those of a configuration, or of a folder that holds val/ with
one folder per class. With a search's checkpoint, BN statistics are first collected on training images, so a
configuration is needed. Several processes share the images: torchrun --nproc-per-node 8 -m proxyless_nas evaluate ...
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

from engine.arguments import add_allow_modules, path_argument
from proxyless_nas.commands.base import Command, add_overrides, at_least, config_path

if TYPE_CHECKING:
    from torch import nn

    from engine.distributed import Group
    from engine.progress import Report
    from retrain.evaluation import Scores
    from supernet.design import Design

BATCH_SIZE = 100
"""The batch size on a folder of images, as in the published project; a configuration has its own."""
MOST_OF_A_NAME = 60
"""The most characters of a class's name that a table shows."""


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "config",
        type=path_argument,
        nargs="?",
        help="YAML file, see configs/retrain/, of which the sections data and run are used, or a name that "
        "`proxyless-nas configs` lists; or give --path",
    )
    parser.add_argument("--path", type=path_argument, help="folder of images: val/<class>/<image>")
    parser.add_argument(
        "--arch",
        "--architecture",
        help="name of a published network, the folder of a retraining, a trained int8 network (.pkl), "
        "architecture.json or net.config; default: the checkpoint's own",
    )
    parser.add_argument(
        "--checkpoint", type=path_argument, help="a .pt file of a run's checkpoints/, or the run's folder"
    )
    parser.add_argument("--batch-size", type=at_least(1), help="images at once, of all processes together")
    parser.add_argument("--workers", type=at_least(0), help="processes that read images; default: one per core")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default with --path: cuda if there is a GPU")
    parser.add_argument("--size", type=at_least(1), help="height and width of the input; default: the network's")
    parser.add_argument("--per-class", action="store_true", help="print a line for each class too")
    parser.add_argument("--confusions", type=at_least(1), metavar="N", help="print the N most frequent confusions too")
    add_overrides(parser, "data.root=/images")
    add_allow_modules(parser, "the architecture's file or the checkpoint")


def _run(args: argparse.Namespace) -> None:
    from engine.errors import UserError
    from engine.job import open_group
    from engine.progress import Stages, set_up_logging

    if args.config is not None and "=" in str(args.config) and not args.config.exists():
        args.config, args.overrides = None, [str(args.config), *args.overrides]
    if (args.config is None) == (args.path is None):
        found = "got neither a configuration nor --path" if args.path is None else "got a configuration and --path"
        raise UserError(found=found, expected="one of the two", remedy="see proxyless-nas evaluate --help")
    if args.path is not None and args.overrides:
        raise UserError("--path", f"got {args.overrides[0]} beside it", remedy="settings change a configuration only")
    with open_group() as group:
        set_up_logging(group)
        with Stages(shown=group.first) as report:
            scores = (_on_config if args.path is None else _on_folder)(args, group, report)
        if group.first:
            _print(scores, args)


def add_published_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the published project's evaluation, for eval.py and eval_tf.py."""
    parser.add_argument("--path", type=path_argument, required=True, help="ImageNet: a folder with val/<class>/<image>")
    parser.add_argument("--arch", default="proxyless_mobile", help="the network's name; default: %(default)s")
    parser.add_argument("--batch-size", type=at_least(1), default=BATCH_SIZE, help="default: %(default)s")
    parser.add_argument("--workers", type=at_least(0), help="processes that read images; default: one per core")


def evaluate_folder(args: argparse.Namespace, converted: Callable[[nn.Module], nn.Module] | None = None) -> None:
    """Evaluates a published network on a folder of images and prints the figures; for eval.py and eval_tf.py.

    args: what `add_published_options` has parsed. converted: makes the module that is evaluated out of the network,
    and computes on the CPU or by itself elsewhere; None evaluates the network.
    """
    others = dict.fromkeys(("config", "checkpoint", "size", "confusions"))
    device = None if converted is None else "cpu"
    options = {**vars(args), **others, "device": device, "per_class": False, "overrides": [], "allow_modules": []}
    _run(argparse.Namespace(**options, converted=converted))


def _on_config(args: argparse.Namespace, group: Group, report: Report) -> Scores:
    from engine.errors import UserError
    from retrain.evaluation import score_checkpoint

    if args.checkpoint is None:
        raise UserError("--checkpoint", "is missing", "a .pt file of a run's checkpoints/, or the run's folder")
    options = {"retrain.batch_size": args.batch_size, "data.workers": args.workers, "run.device": args.device}
    given = [f"{key}={value}" for key, value in options.items() if value is not None]
    file = None if args.arch is None else path_argument(args.arch)
    is_file = file is not None and file.suffix == ".json"  # given as a file, whose name errors then have
    architecture = file if is_file else _design_of(args)
    _, scores = score_checkpoint(
        config_path(args),
        architecture,
        args.checkpoint,
        args.allow_modules,
        overrides=[*args.overrides, *given],
        size=args.size,
        by_class=args.per_class or args.confusions is not None,
        group=group,
        report=report,
    )
    return scores


def _on_folder(args: argparse.Namespace, group: Group, report: Report) -> Scores:
    import torch

    from engine.data.evaluated import check_test_images
    from engine.run_config import RunConfig
    from proxyless_nas.sources import sized, trained_network
    from published.networks import is_named, named
    from retrain.evaluation import score_files

    arch = None if args.arch is None or is_named(args.arch) else path_argument(args.arch)
    if arch is None and args.arch is not None and args.checkpoint is None:
        check_test_images(args.path, named(args.arch).classes)  # before weights are downloaded
    remedy = "give a configuration in place of --path, so that they can be collected"
    found = trained_network(arch or args.arch, args.checkpoint, args.allow_modules, report=report, of_search=remedy)
    converted: Callable[[nn.Module], nn.Module] | None = getattr(args, "converted", None)
    network = found.as_stored if converted is None else converted(found.network)
    run = {"device": args.device or ("cuda" if torch.cuda.is_available() else "cpu")}
    return score_files(
        network,
        args.path,
        sized(found.network, found.preprocessing, args.size),
        found.network.architecture.classes,
        batch_size=args.batch_size or BATCH_SIZE,
        workers=args.workers,
        run=RunConfig.model_validate(run),
        class_names=found.folder_names,
        by_class=args.per_class or args.confusions is not None,
        group=group,
        report=report,
    )


def _design_of(args: argparse.Namespace) -> Design | None:
    """Returns the network that --arch describes; None if it is not given."""
    from published.designs import design_of

    return None if args.arch is None else design_of(path_argument(args.arch), allow_modules=args.allow_modules)


def _print(scores: Scores, args: argparse.Namespace) -> None:
    """Prints the figures of an evaluation, and those of each class and pair of classes that are asked for."""
    from engine.errors import one_line
    from engine.evaluation import wilson
    from engine.quantities import TOP5_CLASSES, accuracy_text

    test, counts = scores.test, scores.by_class
    names = [one_line(name, MOST_OF_A_NAME) for name in scores.class_names]
    print(f"test set, {test.images} images: {accuracy_text(test.top1, test.top5, test.loss, len(names))}")
    shares = {"top-1": test.top1} | ({"top-5": test.top5} if len(names) >= TOP5_CLASSES else {})
    intervals = (f"{what} {{:.2f}} % to {{:.2f}} %".format(*wilson(p, test.images)) for what, p in shares.items())
    print(f"95 % interval: {', '.join(intervals)}; {scores.images_per_second:.4g} images/s")
    if counts is None:
        return
    if args.per_class:
        width = max(len("class"), *map(len, names))
        print(f"{'class':{width}}  images   top-1  95 % interval   top-5  most often taken for")
        for row in counts.rows(names):
            if row.images == 0:
                print(f"{row.name:{width}}  {0:6}")
                continue
            low, high = row.interval
            taken = f"{row.taken_for} ({row.taken})" if row.taken else ""
            figures = f"{row.images:6}  {row.top1:6.2f}  {low:6.2f}..{high:6.2f}  {row.top5:6.2f}"
            print(f"{row.name:{width}}  {figures}  {taken}".rstrip())
    for amount, own, other in counts.most_confused(args.confusions or 0):
        print(f"{amount} of {int(counts.images[own])} images of {names[own]} were taken for {names[other]}")


COMMAND = Command(__doc__, _arguments, _run)
