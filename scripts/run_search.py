"""Search an architecture:  python scripts/run_search.py configs/search/imagenet_cpu.yaml --out runs/cpu

Writes config.yaml (resolved), curves (metrics.jsonl and, for TensorBoard, an event file), checkpoints/,
architecture.json and result.json into --out.
Several processes or machines: torchrun --nproc-per-node 8 scripts/run_search.py ... (docs/cluster.md)
"""

from engine.arguments import parsed, parser_of, path_argument
from engine.errors import run_door


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument("config", type=path_argument, help="YAML file, see configs/search/")
    parser.add_argument("--out", type=path_argument, required=True, help="folder for results")
    parser.add_argument("--resume", action="store_true", help="continue the search in --out")
    parser.add_argument("overrides", nargs="*", help="key=value, e.g. search.epochs=10")
    args = parsed(parser)

    from engine.job import open_group
    from engine.progress import set_up_logging
    from search.loop import run_search
    from search.summary import print_result

    with open_group() as group:
        set_up_logging(group)
        result = run_search(args.config, args.out, resume=args.resume, overrides=args.overrides, group=group)
        if group.first:
            print_result(result)
    return 0 if result.measured.met else 3


if __name__ == "__main__":
    run_door(main, resumable=True)
