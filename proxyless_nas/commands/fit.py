"""Makes a latency table of whole-network timings that you already have:

    proxyless-nas fit imagenet_mobile timings.csv --out tables/board.yaml
    proxyless-nas fit imagenet_mobile few.csv --prior tables/phone.yaml --out tables/board.yaml

timings.csv has the header `architecture,ms`; an architecture is the file name of an architecture.json, or the
candidates of all edges separated by spaces. timings.json is a list of {"architecture": ..., "ms": ...}. At least 10
networks, better 60, which hold every candidate of every edge; fewer do with the table of another device as --prior,
best one of the same kind. Exit status 3: the table is written, but its error on networks left out of the fit is above
the 10 % that searches accept of a verified one.
"""

import argparse
from pathlib import Path

from engine.arguments import add_allow_modules, path_argument
from proxyless_nas.commands.base import Command, add_config, add_overrides, config_path, table_argument


def _prior(text: str) -> Path | str:
    return text if text == "macs" else path_argument(text)


def _arguments(parser: argparse.ArgumentParser) -> None:
    add_config(parser, "YAML file with `space` and `measure` sections")
    parser.add_argument("timings", type=path_argument, help=".csv or .json")
    parser.add_argument("--out", type=table_argument, required=True, help="the table to write")
    parser.add_argument("--device-name", default="unknown device", help="what the networks were timed on")
    parser.add_argument(
        "--device-kind", choices=["cpu", "gpu", "phone", "other"], default="other", help="default: other"
    )
    parser.add_argument("--runtime", default="unknown", help="what ran them, e.g. 'tflite 2.16'")
    parser.add_argument(
        "--prior", type=_prior, help="another device's table of the same space, in any scale; or the word macs"
    )
    add_overrides(parser, "measure.batch=8")
    add_allow_modules(parser, "the architecture files of the timings")


def _run(args: argparse.Namespace) -> int:
    from engine.progress import set_up_logging
    from latency.fit import fit_to_file
    from latency.summary import fit_status, print_fit

    set_up_logging()
    fit = fit_to_file(
        config_path(args),
        args.timings,
        args.out,
        overrides=args.overrides,
        device_name=args.device_name,
        device_kind=args.device_kind,
        runtime=args.runtime,
        prior=args.prior,
        allow_modules=args.allow_modules,
    )
    print_fit(fit, args.out)
    return fit_status(fit)


COMMAND = Command(__doc__, _arguments, _run)
