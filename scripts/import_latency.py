"""Import a latency table that others measured:

python scripts/import_latency.py mobile_trim.yaml --device-name "Pixel 1" --out tables/imagenet_mobile.yaml
"""

from engine.arguments import parsed, parser_of, path_argument
from engine.errors import run_door

FORMATS = ("ofa", "official", "tunas")  # the names in latency.importers.IMPORTERS, which is not imported for --help


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("source", type=path_argument, help="YAML or JSON file in one of the formats")
    parser.add_argument("--out", type=path_argument, required=True, help="the table to write")
    parser.add_argument("--format", choices=FORMATS, help="of the source; default: what its keys show")
    parser.add_argument("--device-name", default="unknown phone", help="what the source was measured on")
    parser.add_argument(
        "--activation", choices=("relu6", "relu", "hswish"), help="entries to take; ofa has hswish and relu"
    )
    parser.add_argument("--config", type=path_argument, help="YAML with a space: list which of its ops the table lacks")
    args = parsed(parser)

    from latency.config import LatencyConfig
    from latency.importers import import_to_file
    from latency.summary import print_import, print_lacking
    from supernet.space import Space

    space = Space(LatencyConfig.read(args.config).space) if args.config else None
    imported = import_to_file(
        args.source, args.out, device_name=args.device_name, format=args.format, activation=args.activation
    )
    print_import(imported, args.out)
    if space is not None:
        print_lacking(imported.table, space, args.config)


if __name__ == "__main__":
    run_door(main)
