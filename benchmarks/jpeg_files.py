"""JPEG files of the size of ImageNet's, made of the two photographs that come with scikit-learn."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (500, 375)
QUALITY = 98
"""At this quality a file has 110 kB on average, as ImageNet's training images have."""
HUES = 25
"""The colours of classes that can be told apart."""


def write_photographs(
    folder: Path, *, parts: dict[str, int], classes: int, quality: int = QUALITY, distinct: int | None = None
) -> float:
    """Writes `folder/<part>/class<c>/<n>.jpg`, and returns the mean size of a file in bytes.

    parts: the images of each class in each part. An image is a part of one of the photographs (640 x 427) that is 78 to
    88.5 % as wide, at random, resized to 500 x 375 and mirrored half of the time: no two are the same.
    distinct: the most files of a class and part that are made; the others are links to them.
    """
    sources = _photographs()
    random = np.random.default_rng(0)
    sizes = []
    for part, per_class in parts.items():
        for label in range(classes):
            place = folder / part / f"class{label:02d}"
            place.mkdir(parents=True)
            for i in range(per_class):
                path = place / f"{i:04d}.jpg"
                if distinct is not None and i >= distinct:
                    path.hardlink_to(place / f"{i % distinct:04d}.jpg")
                    continue
                source = sources[int(random.integers(len(sources)))]
                sizes.append(_write_part(source, random, path, quality))
    return float(np.mean(sizes))


def write_classes(folder: Path, *, parts: dict[str, int], classes: int, quality: int = QUALITY) -> float:
    """Does the same with classes that can be told apart: the class says which photograph it is, and by how much its
    colours are turned, so that up to 50 classes differ at a glance, and the others from these by the place of the part.
    Images are written by as many threads as there are cores, and are a function of their class and number alone.
    """
    sources = [_turned(source, hue) for hue in range(HUES) for source in _photographs()]
    jobs = [(part, label, i) for part, count in parts.items() for label in range(classes) for i in range(count)]
    for part in parts:
        for label in range(classes):
            (folder / part / f"class{label:03d}").mkdir(parents=True)

    def write(job: tuple[str, int, int]) -> int:
        part, label, i = job
        random = np.random.default_rng((label, i, list(parts).index(part)))
        group = label // len(sources) / max(1, (classes - 1) // len(sources))  # where the part is, from left to right
        place = folder / part / f"class{label:03d}" / f"{i:04d}.jpg"
        return _write_part(sources[label % len(sources)], random, place, quality, left_at=group)

    with ThreadPoolExecutor(os.cpu_count()) as threads:  # Pillow works without the interpreter's lock
        return float(np.mean(list(threads.map(write, jobs))))


def _photographs() -> list[Image.Image]:
    from sklearn.datasets import load_sample_images

    return [Image.fromarray(pixels) for pixels in load_sample_images().images]


def _turned(source: Image.Image, hue: int) -> Image.Image:
    """Returns the photograph with its colours turned by `hue` parts of HUES."""
    h, s, v = source.convert("HSV").split()
    turned = h.point([(value + 256 * hue // HUES) % 256 for value in range(256)])
    return Image.merge("HSV", (turned, s, v)).convert("RGB")


def _write_part(
    source: Image.Image, random: np.random.Generator, path: Path, quality: int, left_at: float | None = None
) -> int:
    """Writes a random part of a photograph, and returns the size of the file in bytes. left_at: where it begins, from 0
    (as far to the left as possible) to 1; None: at random, and mirrored half of the time."""
    width = random.uniform(0.78, 0.885) * source.width
    height = width * SIZE[1] / SIZE[0]
    left, top = (random.uniform(0, most) for most in (source.width - width, source.height - height))
    if left_at is not None:
        left = left_at * (source.width - width)
    image = source.resize(SIZE, Image.Resampling.LANCZOS, box=(left, top, left + width, top + height))
    if left_at is None and random.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    image.save(path, quality=quality)
    return path.stat().st_size
