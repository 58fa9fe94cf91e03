"""Writes small folders of image files for tests."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image


def write_images(folder: Path, per_class: int, *, classes: int = 2, size: int = 12, parts=("train", "test")) -> Path:
    """folder/<part>/class<c>/<nnn>.png, noise, each file different."""
    rng = np.random.default_rng(0)
    for part in parts:
        for c in range(classes):
            place = folder / part / f"class{c}"
            place.mkdir(parents=True)
            for n in range(per_class):
                pixels = rng.integers(0, 256, size=(size, size + 2, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{n:03d}.png", compress_level=1)
    return folder


def labelled_list(folder: Path, labels: Sequence[object]) -> Path:
    """folder/list.csv, which gives each of so many grey images its label."""
    rng = np.random.default_rng(0)
    lines = ["path,label"]
    for i, label in enumerate(labels):
        Image.fromarray(rng.integers(0, 256, (10, 10), dtype=np.uint8)).save(folder / f"{i}.png")
        lines.append(f"{i}.png,{label}")
    (folder / "list.csv").write_text("\n".join(lines))
    return folder / "list.csv"


def cut_off(path: Path) -> Path:
    """Keep the header and half of the pixels: a file that opens, and fails while it is decoded."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path
