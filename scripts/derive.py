"""Derive architectures from a search, finished, stopped or still running:

    python scripts/derive.py runs/cpu                      # at the run's own bound
    python scripts/derive.py runs/cpu --at 30 35% 40       # one architecture per bound of the first limit

Reads the newest good checkpoint; writes architecture.json, or architecture-<bound>.json for each --at.
"""

import argparse
from pathlib import Path

from engine.errors import run_door
from engine.progress import set_up_logging
from search.family import derive_family
from search.summary import print_family


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a search")
    parser.add_argument("--at", nargs="+", default=[], metavar="BOUND", help="numbers, or N%% of the reachable range")
    parser.add_argument("--method", choices=["constrained", "argmax"], help="default: as the search says")
    args = parser.parse_args()
    set_up_logging()
    print_family(derive_family(args.run, args.at, args.method))


if __name__ == "__main__":
    run_door(main)
