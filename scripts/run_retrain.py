"""Train a derived network from scratch:

    python scripts/run_retrain.py configs/retrain/imagenet.yaml --architecture runs/cpu/architecture.json --out runs/r

Writes config.yaml, curves (metrics.jsonl and, for TensorBoard, an event file), checkpoints/ and result.json into --out.
Several processes or machines: torchrun --nproc-per-node 8 scripts/run_retrain.py ... (docs/cluster.md)
"""

from engine.arguments import add_allow_modules, parsed, parser_of, path_argument
from engine.errors import run_door


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("config", type=path_argument, help="YAML file, see configs/retrain/")
    parser.add_argument("--architecture", type=path_argument, required=True, help="architecture.json of a search")
    parser.add_argument("--out", type=path_argument, required=True, help="folder for results")
    parser.add_argument("--resume", action="store_true", help="continue the training in --out")
    parser.add_argument("overrides", nargs="*", help="key=value, e.g. retrain.epochs=10")
    add_allow_modules(parser, "the architecture's file")
    args = parsed(parser)

    from engine.job import open_group
    from engine.progress import set_up_logging
    from engine.quantities import accuracy_text
    from retrain.loop import run_retrain

    with open_group() as group:
        set_up_logging(group)
        result = run_retrain(
            args.config,
            args.architecture,
            args.out,
            resume=args.resume,
            overrides=args.overrides,
            allow_modules=args.allow_modules,
            group=group,
        )
        if group.first:
            test = result.test
            figures = accuracy_text(test.top1, test.top5, test.loss, result.architecture.space.config.classes)
            print(f"test set, {test.images} images: {figures}")


if __name__ == "__main__":
    run_door(main, resumable=True)
