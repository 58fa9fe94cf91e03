"""Evaluate an architecture with a checkpoint, of its retraining or of a search, on the test set:

python scripts/evaluate.py configs/retrain/imagenet.yaml --architecture a.json --checkpoint runs/r/checkpoints/X.pt
"""

from engine.arguments import add_allow_modules, parsed, parser_of, path_argument
from engine.errors import run_door


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument(
        "config", type=path_argument, help="YAML file, see configs/retrain/: its data and run sections are used"
    )
    parser.add_argument("--architecture", type=path_argument, help="architecture.json; default: the checkpoint's own")
    parser.add_argument("--checkpoint", type=path_argument, required=True, help="a .pt file of a run's checkpoints/")
    parser.add_argument("overrides", nargs="*", help="key=value, e.g. data.root=/images")
    add_allow_modules(parser, "the architecture's file or the checkpoint")
    args = parsed(parser)

    from engine.config import keys_of, naming
    from engine.progress import set_up_logging
    from engine.quantities import accuracy_text
    from retrain.config import RetrainConfig
    from retrain.evaluation import evaluate_checkpoint

    set_up_logging()
    config = RetrainConfig.read(args.config, args.overrides)
    with naming(args.config, keys_of(RetrainConfig)):
        architecture, test = evaluate_checkpoint(config, args.architecture, args.checkpoint, args.allow_modules)
    figures = accuracy_text(test.top1, test.top5, test.loss, architecture.space.config.classes)
    print(f"test set, {test.images} images: {figures}")


if __name__ == "__main__":
    run_door(main)
