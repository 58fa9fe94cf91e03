"""Compares networks on devices: size, accuracy and latency of each, and which is best on which device:

    proxyless-nas compare proxyless_cpu proxyless_mobile torchvision:resnet34 --devices cpu,onnxruntime
    proxyless-nas compare runs/cpu proxyless_cpu --tables tables/imagenet_cpu.yaml --at 80 --csv compare.csv
    proxyless-nas compare runs/r efficientnet_lite0 --path /imagenet --devices cpu --picture compare.png

A network is a published one by its name, one of torchvision as torchvision:NAME, an architecture.json, a net.config, or
the folder of a search or of a retraining. A published accuracy or latency is marked as such. Measured latencies are
medians of rounds in which all networks are timed in turn; if other work disturbs them, all are timed again, at most
three times. A network that a table does not cover, or a runtime cannot run, has an empty cell with the reason.
"""

import argparse
from pathlib import Path

from engine.arguments import add_allow_modules, path_argument
from proxyless_nas.commands.base import Command, at_least

OUTPUTS = ("csv", "markdown", "picture", "json")


def _bound(text: str) -> tuple[str, float]:
    name, _, number = text.rpartition("=")
    try:
        return name, float(number)
    except ValueError:
        raise argparse.ArgumentTypeError(f"got '{text[:80]}', expected milliseconds, or DEVICE=milliseconds") from None


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("networks", nargs="+", metavar="NETWORK", help="a name, a file or a folder of a run")
    parser.add_argument(
        "--tables",
        type=path_argument,
        nargs="+",
        default=[],
        metavar="TABLE",
        help="latency tables that predict the networks' latencies",
    )
    parser.add_argument(
        "--devices",
        default="",
        help="time here in these runtimes, separated by commas: cpu, cuda, pytorch_compile, onnxruntime, litert",
    )
    parser.add_argument(
        "--at", type=_bound, nargs="+", default=[], metavar="MS", help="a latency to stay within, or DEVICE=MS for one"
    )
    parser.add_argument(
        "--accuracy",
        type=path_argument,
        metavar="FILE",
        help="take accuracies from this file: measured ones, or another --json",
    )
    parser.add_argument(
        "--path", type=path_argument, metavar="IMAGES", help="measure accuracies on this folder of images"
    )
    parser.add_argument("--threads", type=at_least(1), default=1, help="CPU threads of a timing; default: 1")
    parser.add_argument("--batch", type=at_least(1), default=1, help="images at once; default: 1")
    parser.add_argument(
        "--rounds", type=at_least(2), default=15, help="rounds in which each network is timed; default: 15"
    )
    for output, what in zip(OUTPUTS, ("exact figures", "the table and notes", "a PNG file", "everything"), strict=True):
        parser.add_argument(f"--{output}", type=path_argument, metavar="FILE", help=f"write {what}")
    add_allow_modules(parser, "the files or runs")


def _run(args: argparse.Namespace) -> None:
    from rich.console import Console

    from engine.files import write_atomically
    from engine.progress import Stages, set_up_logging
    from proxyless_nas.comparison.compare import compare

    outputs = _checked(args)
    set_up_logging()
    named = {name: ms for name, ms in args.at if name}
    everywhere = [ms for name, ms in args.at if not name]
    _refuse_ambiguous(named, everywhere, len(args.at))
    with Stages() as report:
        comparison = compare(
            args.networks,
            tables=args.tables,
            devices=args.devices,
            at=everywhere[0] if everywhere else named or None,
            accuracy=args.accuracy,
            images=args.path,
            threads=args.threads,
            batch=args.batch,
            rounds=args.rounds,
            allow_modules=args.allow_modules,
            report=report,
        )
    console = Console()
    if console.is_terminal:
        console.print(comparison.table())
        for line in comparison.notes():
            console.print(line, highlight=False, markup=False)
    else:
        print(comparison)
    for output, path in outputs.items():
        content = {"csv": comparison.to_csv, "markdown": comparison.to_markdown, "json": comparison.to_json}
        write_atomically(path, content[output]() if output in content else comparison.picture().png)
        print(f"{output}: {path}")


def _checked(args: argparse.Namespace) -> dict[str, Path]:
    """Returns the files to write by their options. Raises UserError if one cannot be written, or two are the same: said
    before minutes of measuring."""
    from engine.errors import UserError
    from engine.files import check_writable
    from proxyless_nas.views import picture_path

    outputs: dict[str, Path] = {o: path for o in OUTPUTS if (path := getattr(args, o)) is not None}
    if args.picture is not None:
        picture_path(args.picture)
    for output, path in outputs.items():
        if path in [other for name, other in outputs.items() if name != output]:
            raise UserError(f"--{output}", f"got {path}, which another output is", "a file of its own")
        check_writable(path, f"--{output}")
    return outputs


def _refuse_ambiguous(named: dict[str, float], everywhere: list[float], given: int) -> None:
    """Raises UserError if --at has two latencies for one device."""
    from engine.errors import UserError

    if len(everywhere) > 1 or (everywhere and named) or len(named) + len(everywhere) < given:
        raise UserError("--at", "got two latencies for one device", "one number, or DEVICE=number for each")


COMMAND = Command(__doc__, _arguments, _run)
