"""Evaluate an architecture with a checkpoint, of its retraining or of a search, on the test set:

python scripts/evaluate.py configs/retrain/imagenet.yaml --architecture a.json --checkpoint runs/r/checkpoints/X.pt
"""

import argparse
from pathlib import Path

from engine.config import keys_of, load_config, naming, validate
from engine.errors import run_door
from engine.progress import set_up_logging
from engine.quantities import accuracy_text
from retrain.config import RetrainFile
from retrain.evaluation import evaluate_checkpoint
from retrain.weights import load_architecture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, help="YAML file, see configs/retrain/: its data and run sections are used")
    parser.add_argument("--architecture", type=Path, help="architecture.json; default: the checkpoint's own")
    parser.add_argument("--checkpoint", type=Path, required=True, help="a .pt file of a run's checkpoints/")
    parser.add_argument("overrides", nargs="*", help="key=value, e.g. data.root=/images")
    args = parser.parse_intermixed_args()
    set_up_logging()
    config = validate(RetrainFile, load_config(args.config, args.overrides), str(args.config))
    with naming(args.config, keys_of(RetrainFile)):
        test = evaluate_checkpoint(config, args.architecture, args.checkpoint)
    classes = load_architecture(args.architecture).space.config.classes
    print(f"test set, {test.images} images: {accuracy_text(test.top1, test.top5, test.loss, classes)}")


if __name__ == "__main__":
    run_door(main)
