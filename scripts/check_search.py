"""Check a search before it runs, in seconds:  python scripts/check_search.py configs/search/imagenet_cpu.yaml

One line for each condition: ok, warn, or FAIL with what to do. Nothing is written. Exit status 2 if any fails.
"""

import argparse
from pathlib import Path

from engine.errors import run_door
from engine.files import in_home
from engine.progress import Stages, set_up_logging
from search.check import check_search


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, help="YAML file, see configs/search/")
    parser.add_argument("--out", type=Path, help="folder for results: is there room for checkpoints?")
    parser.add_argument("overrides", nargs="*", help="key=value, as for run_search.py")
    args = parser.parse_intermixed_args()
    set_up_logging()
    with Stages() as told:
        checks = check_search(in_home(args.config), args.overrides, in_home(args.out) if args.out else None, told)
    for check in checks:
        print(check)
    return 2 if any(check.level == "FAIL" for check in checks) else 0


if __name__ == "__main__":
    run_door(main)
