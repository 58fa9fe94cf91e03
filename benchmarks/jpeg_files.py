"""JPEG files of the size of ImageNet's, made of the two photographs that come with scikit-learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (500, 375)
QUALITY = 98
"""At this quality a file has 110 kB on average, as ImageNet's training images have."""


def write_photographs(
    folder: Path, *, parts: dict[str, int], classes: int, quality: int = QUALITY, distinct: int | None = None
) -> float:
    """Writes `folder/<part>/class<c>/<n>.jpg`, and returns the mean size of a file in bytes.

    parts: the images of each class in each part. An image is a part of one of the photographs (640 x 427) that is 78 to
    88.5 % as wide, at random, resized to 500 x 375 and mirrored half of the time: no two are the same.
    distinct: the most files of a class and part that are made; the others are links to them.
    """
    from sklearn.datasets import load_sample_images

    sources = [Image.fromarray(pixels) for pixels in load_sample_images().images]
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
                width = random.uniform(0.78, 0.885) * source.width
                height = width * SIZE[1] / SIZE[0]
                left, top = (random.uniform(0, most) for most in (source.width - width, source.height - height))
                image = source.resize(SIZE, Image.Resampling.LANCZOS, box=(left, top, left + width, top + height))
                if random.random() < 0.5:
                    image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
                image.save(path, quality=quality)
                sizes.append(path.stat().st_size)
    return float(np.mean(sizes))
