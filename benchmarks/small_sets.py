"""Two sets of small pictures in memory, as data of a retraining (docs/extending/dataset.md), for recipes.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from engine.data.own import Arrays, OwnSet
from engine.files import replacing

FILE = "images.npz"


def pictures(root: Path) -> OwnSet:
    """Returns the images that `write_pictures` has written into `root`."""
    with np.load(root / FILE) as kept:
        train, test = (Arrays(kept[part], kept[f"{part}_labels"]) for part in ("train", "test"))
        return OwnSet(train, test, kept["classes"].tolist(), flip=True)


def write_pictures(source: Path, folder: Path, most: int | None) -> None:
    """Writes the images of `source` into `folder`, unless they are there.

    source: an .npz file that this function has written, torchvision's folder of Fashion-MNIST, or a folder with
    train/<class>/<image> and test/<class>/<image>. most: training images, the first ones of each class, all alike.
    """
    target = folder / FILE
    if target.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    arrays = _arrays(source)
    if most is not None:
        labels = arrays["train_labels"]
        per_class = most // len(arrays["classes"])
        kept = np.sort(np.concatenate([np.flatnonzero(labels == c)[:per_class] for c in np.unique(labels)]))
        arrays |= {"train": arrays["train"][kept], "train_labels": labels[kept]}
    with replacing(target) as new, new.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def _arrays(source: Path) -> dict[str, np.ndarray]:
    """Returns the images (N, H, W, C) uint8 and labels (N,) of both parts, and the names of the classes."""
    if source.is_file():
        with np.load(source) as kept:
            return dict(kept)
    if (source / "FashionMNIST").is_dir():
        from torchvision.datasets import FashionMNIST

        parts = {"train": FashionMNIST(str(source), train=True), "test": FashionMNIST(str(source), train=False)}
        found = {name: part.data.numpy()[..., None] for name, part in parts.items()}
        found |= {f"{name}_labels": part.targets.numpy() for name, part in parts.items()}
        return found | {"classes": np.array(parts["train"].classes)}
    classes = sorted(path.name for path in (source / "train").iterdir() if path.is_dir())
    found = {"classes": np.array(classes)}
    for part in ("train", "test"):
        files = [
            (label, file) for label, name in enumerate(classes) for file in sorted((source / part / name).iterdir())
        ]
        found[part] = np.stack([_pixels(file) for _, file in files])
        found[f"{part}_labels"] = np.array([label for label, _ in files])
    return found


def _pixels(file: Path) -> np.ndarray:
    with Image.open(file) as image:
        return np.asarray(image.convert("RGB"))
