"""Make a latency table of whole-network timings that you already have:

    python scripts/fit_latency.py configs/search/imagenet_mobile.yaml timings.csv --out tables/board.yaml

    python scripts/fit_latency.py configs/search/imagenet_mobile.yaml few.csv --prior tables/phone.yaml --out board.yaml

timings.csv has the header `architecture,ms`; an architecture is the file name of an architecture.json, or the
candidates of all edges separated by spaces. timings.json is a list of {"architecture": ..., "ms": ...}. At least 10
networks, better 60, which hold every candidate of every edge; fewer do with the table of another device as --prior,
best one of the same kind. Exit status 3: the table is written, but its error on
networks left out of the fit is above the 10 % that searches accept of a verified one.
"""

from pathlib import Path

from engine.arguments import add_allow_modules, parsed, parser_of, path_argument
from engine.errors import run_door


def _prior(text: str) -> Path | str:
    return text if text == "macs" else path_argument(text)


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument("config", type=path_argument, help="YAML file with `space` and `measure` sections")
    parser.add_argument("timings", type=path_argument, help=".csv or .json")
    parser.add_argument("--out", type=path_argument, required=True, help="the table to write")
    parser.add_argument("--device-name", default="unknown device", help="what the networks were timed on")
    parser.add_argument("--device-kind", choices=["cpu", "gpu", "phone", "other"], default="other")
    parser.add_argument("--runtime", default="unknown", help="what ran them, e.g. 'tflite 2.16'")
    parser.add_argument(
        "--prior", type=_prior, help="another device's table of the same space, in any scale; or the word macs"
    )
    parser.add_argument("overrides", nargs="*", help="key=value, e.g. measure.batch=8")
    add_allow_modules(parser, "the architecture files of the timings")
    args = parsed(parser)

    from engine.progress import set_up_logging
    from latency.config import LatencyConfig
    from latency.device import named_device
    from latency.existing import Identity, refuse_to_replace
    from latency.fit import fit_table
    from latency.prior import read_prior
    from latency.summary import fit_status, print_fit
    from latency.table import Runtime, prepare_table_file
    from latency.timings import read_timings
    from supernet.space import Space

    set_up_logging()
    config = LatencyConfig.read(args.config, args.overrides)
    space = Space(config.space)
    prepare_table_file(args.out)
    name, _, version = args.runtime.partition(" ")
    found = fit_table(
        space,
        config.measure,
        read_timings(args.timings, space, args.allow_modules),
        device=named_device(args.device_kind, args.device_name, None, "unknown"),
        runtime=Runtime(name=name, version=version or "unknown"),
        source=str(args.timings),
        prior=None if args.prior is None else read_prior(args.prior, space),
    )
    refuse_to_replace(args.out, Identity.of_table(found.table))
    found.table.save(args.out)
    print_fit(found, args.out)
    return fit_status(found)


if __name__ == "__main__":
    run_door(main)
