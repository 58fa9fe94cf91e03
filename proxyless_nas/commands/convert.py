"""Converts a network between net.config (ProxylessNAS, once-for-all) and architecture.json, with its weights:

    proxyless-nas convert net.config architecture.json --weights official.pth checkpoint.pt
    proxyless-nas convert runs/cpu/architecture.json net.config --weights runs/r/checkpoints/X.pt official.pth
    proxyless-nas convert proxyless_cpu architecture.json
    proxyless-nas convert proxyless-w0.3.pkl architecture.json --weights proxyless-w0.3.pkl checkpoint.pt

A target that ends with .json becomes an architecture.json, another one a net.config. A trained int8 network (.pkl, of
tiny-training) gives a network in float32 with its dequantised weights. What cannot be represented is
refused by its field, before anything is written. A file that exists and holds something else is not replaced.
"""

import argparse

from engine.arguments import add_allow_modules, path_argument
from proxyless_nas.commands.base import Command, at_least


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", help="a net.config, an architecture.json, a .pkl, or the name of a published network")
    parser.add_argument("target", type=path_argument, help="the file to write: architecture.json, or a net.config")
    parser.add_argument(
        "--weights", type=path_argument, nargs=2, metavar=("FROM", "TO"), help="a checkpoint, and the file to write"
    )
    parser.add_argument(
        "--input-size", type=at_least(1), metavar="PIXELS",
        help="height and width of a net.config's images, which it does not have; default: 224, of a tree network 32",
    )  # fmt: skip
    add_allow_modules(parser, "the architecture's file")


def _run(args: argparse.Namespace) -> None:
    from engine.progress import set_up_logging
    from proxyless_nas.interchange import convert

    set_up_logging()
    weights = tuple(args.weights) if args.weights else None
    done = convert(args.source, args.target, weights, input_size=args.input_size, allow_modules=args.allow_modules)
    c = done.design.complexity
    print(f"{', '.join(map(str, done.files))}: {c.params} params, {c.macs} MACs at {done.design.input_size} px")


COMMAND = Command(__doc__, _arguments, _run)
