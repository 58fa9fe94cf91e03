"""Search, then use the result, all from Python:  python docs/examples/from_python.py CONFIG OUT [key=value ...]

With OUT a new folder, from the repository root; the table that CONFIG names has been measured.
"""

import sys
from pathlib import Path

import torch

from retrain.weights import load_network
from search.loop import run_search
from supernet import Architecture, Network


def main(config: Path, out: Path, overrides: list[str]) -> None:
    result = run_search(config, out, overrides=overrides)
    print(f"accuracy with the supernet's weights: {result.accuracy.top1:.1f} %")

    architecture = Architecture.from_json((out / "architecture.json").read_text())
    assert architecture == Architecture(result.architecture.space, result.architecture.paths, out.name)
    print(f"{len(architecture.names)} edges: {', '.join(architecture.names)}")
    print(f"{architecture.complexity.params} parameters, {architecture.complexity.macs} MACs")

    network = Network(architecture)  # a plain nn.Module with fresh weights
    space = architecture.space.config
    logits = network(torch.zeros(2, space.input_channels, space.input_size, space.input_size))
    print(f"logits: {tuple(logits.shape)}")

    newest = max((out / "checkpoints").glob("step-*.pt"))
    network = load_network(newest, architecture).network  # the same with the supernet's weights


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
