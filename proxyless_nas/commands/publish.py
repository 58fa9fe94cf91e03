"""Publishes a retrained network: a folder that torch.hub loads it from, with a model card:

    proxyless-nas publish runs/retrained --out hub/my_net --licence apache-2.0
    proxyless-nas publish runs/retrained runs/cpu --out hub/my_net --name my_net --safetensors

The folder has hubconf.py, config.json, architecture.json, weights.pth and README.md, the model card: data, limits and
how they are met, the latency table, accuracy with its interval. It has net.config where that format can express the
network. Then, in any program: net = torch.hub.load("hub/my_net", "my_net", source="local"). The search is found
by itself if the retraining took its architecture.json from there.
"""

import argparse

from engine.arguments import add_allow_modules, path_argument
from proxyless_nas.commands.base import Command


def _arguments(parser: argparse.ArgumentParser) -> None:
    run_help = "folder of a retraining that has ended, or of a quick start"
    parser.add_argument("run", type=path_argument, help=run_help)
    parser.add_argument("search", type=path_argument, nargs="?", help="folder of the search that found the network")
    parser.add_argument("--out", type=path_argument, required=True, help="folder to write; it may not hold other files")
    parser.add_argument("--name", help="its name in hubconf.py, an identifier; default: made of the network's name")
    parser.add_argument("--licence", "--license", help="of the network, e.g. apache-2.0; default: not stated")
    parser.add_argument("--safetensors", action="store_true", help="write the weights in that format too")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier publication")
    add_allow_modules(parser, "the run")


def _run(args: argparse.Namespace) -> None:
    from engine.progress import set_up_logging
    from report.publication import publish, summary_of

    set_up_logging()
    publication = publish(
        args.run, args.out, search=args.search, name=args.name, licence=args.licence, safetensors=args.safetensors,
        overwrite=args.overwrite, allow_modules=args.allow_modules,
    )  # fmt: skip
    for line in summary_of(publication):
        print(line)


COMMAND = Command(__doc__, _arguments, _run)
