"""Import a latency table of the official key format:

python scripts/import_latency.py mobile_trim.yaml --device-name "Pixel 1" --out tables/imagenet_mobile.yaml
"""

import argparse
from pathlib import Path

from engine.errors import run_door
from latency.importers import import_official


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="YAML with keys such as expanded_conv-input:...-output:...")
    parser.add_argument("--out", type=Path, required=True, help="the table to write")
    parser.add_argument("--device-name", default="unknown phone", help="what the source was measured on")
    args = parser.parse_args()
    table = import_official(args.source, device_name=args.device_name)
    table.save(args.out)
    print(f"{args.out}: {len(table.entries)} ops at {table.input_size} px, batch {table.batch}")


if __name__ == "__main__":
    run_door(main)
