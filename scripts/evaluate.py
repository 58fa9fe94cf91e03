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
    parser.add_argument("--architecture", type=path_argument, required=True, help="architecture.json")
    parser.add_argument("--checkpoint", type=path_argument, required=True, help="a .pt file of a run's checkpoints/")
    parser.add_argument("overrides", nargs="*", help="key=value, e.g. data.root=/images")
    add_allow_modules(parser, "the architecture's file")
    args = parsed(parser)

    from engine.config import keys_of, load_config, naming, validate
    from engine.progress import set_up_logging
    from retrain.config import RetrainFile
    from retrain.evaluation import evaluate_checkpoint, in_words
    from retrain.weights import load_architecture

    set_up_logging()
    config = validate(RetrainFile, load_config(args.config, args.overrides), str(args.config))
    with naming(args.config, keys_of(RetrainFile)):
        test = evaluate_checkpoint(config, args.architecture, args.checkpoint, args.allow_modules)
    classes = load_architecture(args.architecture, args.allow_modules).space.config.classes
    print(in_words(test, classes))


if __name__ == "__main__":
    run_door(main)
