"""Import a latency table that others measured:

python scripts/import_latency.py mobile_trim.yaml --device-name "Pixel 1" --out tables/imagenet_mobile.yaml
"""

from engine.arguments import parsed, parser_of, path_argument
from engine.errors import run_door

FORMATS = ("ofa", "official", "tunas")  # the names in latency.importers.IMPORTERS, which is not imported for --help
MOST_LISTED = 20


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
    from latency.existing import Identity, refuse_to_replace
    from latency.importers import import_table, in_words
    from latency.summary import print_how_to_search
    from latency.table import prepare_table_file
    from supernet.space import Space

    space = None
    if args.config:
        space = Space(LatencyConfig.read(args.config).space)
    imported = import_table(args.source, device_name=args.device_name, format=args.format, activation=args.activation)
    table = imported.table
    prepare_table_file(args.out)
    refuse_to_replace(args.out, Identity.of_table(table))
    table.save(args.out)
    print(f"{args.out}: {len(table.entries)} ops at {table.input_size} px, batch {table.batch}, {table.activation}")
    for line in in_words(imported.left_out):
        print(line)
    print_how_to_search(args.out)
    if space is None:
        return
    missing = table.missing(space)
    print(f"{args.config}: the table lacks {len(missing)} of its ops{':' if missing else ''}")
    for layer in missing[:MOST_LISTED]:
        print(f"  {layer}")
    if len(missing) > MOST_LISTED:
        print(f"  ... and {len(missing) - MOST_LISTED} more")
    for name, own, wanted in (
        ("input_size", table.input_size, space.config.input_size),
        ("activation", table.activation, space.config.activation),
    ):
        if own != wanted:
            print(f"{args.config}: space.{name} is {wanted}, the table's {name} is {own}: a search would refuse it")


if __name__ == "__main__":
    run_door(main)
