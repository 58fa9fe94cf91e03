"""Imports a latency table that others measured:

    proxyless-nas import mobile_trim.yaml --device-name "Pixel 1" --out tables/imagenet_mobile.yaml

The format of the file is recognised by its keys. Entries that fit no op of this framework are counted and left out.
"""

import argparse

from engine.arguments import path_argument
from proxyless_nas.commands.base import Command, table_argument

FORMATS = ("ofa", "official", "tunas")  # the names in latency.importers.IMPORTERS, which is not imported for --help


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=path_argument, help="YAML or JSON file in one of the formats")
    parser.add_argument("--out", type=table_argument, required=True, help="the table to write")
    parser.add_argument("--format", choices=FORMATS, help="the format of the source; default: by its keys")
    parser.add_argument("--device-name", default="unknown phone", help="what the source was measured on")
    parser.add_argument(
        "--activation", choices=("relu6", "relu", "hswish"), help="entries to take; ofa has hswish and relu"
    )
    parser.add_argument("--config", type=path_argument, help="YAML with a space: list which of its ops the table lacks")


def _run(args: argparse.Namespace) -> None:
    from engine.shipped import located
    from latency.config import LatencyConfig
    from latency.importers import import_to_file
    from latency.summary import print_import, print_lacking
    from supernet.space import Space

    config = located(args.config) if args.config else None
    space = Space(LatencyConfig.read(config).space) if config else None
    imported = import_to_file(
        args.source, args.out, device_name=args.device_name, format=args.format, activation=args.activation
    )
    print_import(imported, args.out)
    if space is not None and config is not None:
        print_lacking(imported.table, space, config)


COMMAND = Command(__doc__, _arguments, _run)
