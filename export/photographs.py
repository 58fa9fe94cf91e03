"""Returns real photographs that install with pip: the two that come with scikit-learn, and parts of them."""

from __future__ import annotations

from PIL import Image

PARTS = (
    (0.0, 0.0, 1.0, 1.0), (0.0, 0.0, 0.5, 0.5), (0.5, 0.0, 1.0, 0.5), (0.0, 0.5, 0.5, 1.0), (0.5, 0.5, 1.0, 1.0),
    (0.25, 0.25, 0.75, 0.75), (0.1, 0.3, 0.7, 0.6), (0.3, 0.1, 0.6, 0.9),
)  # fmt: skip
"""Left, upper, right and lower end of each part, as shares of the width and the height."""


def photographs() -> list[Image.Image]:
    """Returns 16 RGB pictures of several sizes and shapes: both photographs, a temple and a flower, and parts of
    them."""
    from sklearn.datasets import load_sample_image

    pictures = []
    for name in ("china.jpg", "flower.jpg"):
        whole = Image.fromarray(load_sample_image(name))
        width, height = whole.size
        pictures += [
            whole.crop((round(a * width), round(b * height), round(c * width), round(d * height)))
            for a, b, c, d in PARTS
        ]
    return pictures
