"""Evaluates a published network on ImageNet:

    python eval.py --path /imagenet --arch proxyless_cpu

These are the options of the published project; `proxyless-nas evaluate` has more, and other networks.
"""

import argparse

from engine.arguments import parsed, parser_of, path_argument
from engine.errors import run_command
from proxyless_nas.commands.base import at_least
from proxyless_nas.commands.evaluate import BATCH_SIZE, evaluate_folder


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--path", type=path_argument, required=True, help="ImageNet: a folder with val/<class>/<image>")
    parser.add_argument("--arch", default="proxyless_mobile", help="the network's name; default: %(default)s")
    parser.add_argument("--batch-size", type=at_least(1), default=BATCH_SIZE, help="default: %(default)s")
    parser.add_argument("--workers", type=at_least(0), help="processes that read images; default: one per core")
    args: argparse.Namespace = parsed(parser)
    run_command(lambda: evaluate_folder(args.path, args.arch, args.batch_size, args.workers))


if __name__ == "__main__":
    main()
