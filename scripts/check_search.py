"""Check a search before it runs, in seconds:  python scripts/check_search.py configs/search/imagenet_cpu.yaml

One line for each condition: ok, warn, or FAIL with what to do. Nothing is written. Exit status 2 if any fails.
"""

from engine.arguments import parsed, parser_of, path_argument
from engine.errors import run_door


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument("config", type=path_argument, help="YAML file, see configs/search/")
    parser.add_argument("--out", type=path_argument, help="folder for results: is there room for checkpoints?")
    parser.add_argument("overrides", nargs="*", help="key=value, as for run_search.py")
    args = parsed(parser)

    from engine.progress import Stages, set_up_logging
    from search.check import check_search

    set_up_logging()
    with Stages() as stages:
        checks = check_search(args.config, args.overrides, args.out, stages)
    for check in checks:
        print(check)
    return 2 if any(check.level == "FAIL" for check in checks) else 0


if __name__ == "__main__":
    run_door(main)
