"""Train a derived network from scratch:

    python scripts/run_retrain.py configs/retrain/imagenet.yaml --architecture runs/cpu/architecture.json --out runs/r

Writes config.yaml, curves (metrics.jsonl and, for TensorBoard, an event file), checkpoints/ and result.json into --out.
Several processes or machines: torchrun --nproc-per-node 8 scripts/run_retrain.py ... (docs/cluster.md)
"""

import argparse
from pathlib import Path

from engine.errors import run_door
from engine.job import open_group
from engine.progress import set_up_logging
from retrain.loop import run_retrain


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, help="YAML file, see configs/retrain/")
    parser.add_argument("--architecture", type=Path, required=True, help="architecture.json of a search")
    parser.add_argument("--out", type=Path, required=True, help="folder for results")
    parser.add_argument("--resume", action="store_true", help="continue the training in --out")
    parser.add_argument("overrides", nargs="*", help="key=value, e.g. retrain.epochs=10")
    with open_group() as group:
        with group.quiet():
            args = parser.parse_intermixed_args()
        set_up_logging(group)
        result = run_retrain(
            args.config, args.architecture, args.out, resume=args.resume, overrides=args.overrides, group=group
        )
        if group.first:
            test = result.test
            figures = f"top-1 {test.top1:.2f} %, top-5 {test.top5:.2f} %, loss {test.loss:.4f}"
            print(f"test set, {test.images} images: {figures}")


if __name__ == "__main__":
    run_door(main, resumable=True)
