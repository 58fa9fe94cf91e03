"""Writes small folders of image files for tests."""

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


def cut_off(path: Path) -> Path:
    """Keep the header and half of the pixels: a file that opens, and fails while it is decoded."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path
